"""From words to texts: the task, templates, styles and prompts."""

from clipstill.core.registry import Part, Registry

prompt_strategies = Registry(
    "prompt",
    {
        "plain": Part("clipstill.text.prompts:plain_prompts", "one sentence a class is enough"),
        "styles": Part("clipstill.text.prompts:styled_prompts", "you begin: the default, a class in sixteen styles"),
        "mix": Part("clipstill.text.mixing:mixed_prompts", "you repeat Mix-Prompt of VLFM"),
        "sdd": Part("clipstill.text.learned:sdd_prompts", "you repeat the style vectors of CVLM"),
        "random": Part("clipstill.text.learned:random_prompts", "you repeat Random-Prompt of VLFM"),
        "contrastive": Part("clipstill.text.learned:contrastive_prompts", "you repeat the contrastive prompts of VLFM"),
    },
)
