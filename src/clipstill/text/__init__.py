"""From words to texts: the task, templates, styles and prompts."""

from clipstill.core.registry import Registry

prompt_strategies = Registry(
    "prompt",
    {
        "plain": "clipstill.text.prompts:plain_prompts",
        "styles": "clipstill.text.prompts:styled_prompts",
        "mix": "clipstill.text.mixing:mixed_prompts",
        "sdd": "clipstill.text.learned:sdd_prompts",
        "random": "clipstill.text.learned:random_prompts",
        "contrastive": "clipstill.text.learned:contrastive_prompts",
    },
)
