"""From words to texts: the task, templates, styles and prompts."""

from clipstill.core.registry import Registry

prompt_strategies = Registry(
    "prompt",
    {
        "plain": "clipstill.text.prompts:plain_prompts",
        "styles": "clipstill.text.prompts:styled_prompts",
        "mix": "clipstill.text.mixing:mixed_prompts",
        "sdd": "clipstill.text.dictionary:sdd_prompts",
        "random": "clipstill.text.pseudo_styles:random_prompts",
        "contrastive": "clipstill.text.pseudo_styles:contrastive_prompts",
    },
)
