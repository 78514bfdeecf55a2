"""From words to texts: the task, templates, styles and prompts."""

from clipstill.core.registry import Registry

prompt_strategies = Registry(
    "prompt",
    {
        "styles": "clipstill.text.prompts:styled_prompts",
        "plain": "clipstill.text.prompts:plain_prompts",
    },
)
