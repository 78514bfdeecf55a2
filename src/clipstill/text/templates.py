"""Sentences around a class name, which teachers that learned from captions know better than bare words."""

from __future__ import annotations

from collections.abc import Sequence

from clipstill.core.errors import ConfigError, UnknownNameError, did_you_mean
from clipstill.core.names import spoken
from clipstill.text.task import Task

# Sentences of CLIP's published ImageNet ensemble that name no medium, since a class vector stands for every style.
CLASS_TEMPLATES = (
    "a photo of a {class}.",
    "a photo of the {class}.",
    "a good photo of a {class}.",
    "a close-up photo of a {class}.",
    "a bright photo of a {class}.",
    "a photo of one {class}.",
    "a photo of a large {class}.",
    "a photo of a small {class}.",
)
NAME_TEMPLATES = ("{class}",)
# Source: CoOp (Zhou et al., IJCV 2022), one hand-written sentence per data set.
DATASET_TEMPLATES = {
    "caltech101": ("a photo of a {class}.",),
    "imagenet": ("a photo of a {class}.",),
    "oxford_pets": ("a photo of a {class}, a type of pet.",),
    "stanford_cars": ("a photo of a {class}.",),
    "oxford_flowers": ("a photo of a {class}, a type of flower.",),
    "food101": ("a photo of {class}, a type of food.",),
    "fgvc_aircraft": ("a photo of a {class}, a type of aircraft.",),
    "sun397": ("a photo of a {class}.",),
    "dtd": ("{class} texture.",),
    "eurosat": ("a centered satellite photo of {class}.",),
    "ucf101": ("a photo of a person doing {class}.",),
}
TEMPLATE_SETS = {"plain": CLASS_TEMPLATES, "name": NAME_TEMPLATES, **DATASET_TEMPLATES}
AUTO = "auto"  # The set that suits the teacher.
DEFAULT = "default"  # The prompt strategy's own sentence.

# Source: Wei et al., ICLR 2025, "[class text] in the style of [style]".
STYLE_TEMPLATE = "a {class} in the style of {style}"
PLAIN_TEMPLATE = "a photo of a {class}"
DICTIONARY_TEMPLATE = "a {tokens} {class} in the style of {style}"
# Source: Cho et al., ICCV 2023 (PromptStyler), "a S* style of a [class]" with pseudo-words S*.
PSEUDO_TEMPLATE = "a {tokens} style of a {class}"
# Augmented views for the instance loss: other sentences of the same content. Our choice.
DICTIONARY_VIEWS = (
    "a photo of a {tokens} {class} in the style of {style}",
    "a {tokens} {class}, {style}",
    "the {tokens} {class} in {style} style",
)
PSEUDO_VIEWS = ("a {class} in a {tokens} style", "a photo of a {class} in a {tokens} style", "a {tokens} {class}")


def template_set(name: str, suited: str) -> tuple[str, ...]:
    """The templates of a named set; ``"auto"`` is the set ``suited`` to the teacher.

    Raises:
        UnknownNameError: There is no set of that name.
    """
    if name == AUTO:
        name = suited
    if name not in TEMPLATE_SETS:
        known = (AUTO, *TEMPLATE_SETS)
        raise UnknownNameError(
            f"no template set named '{name}'.{did_you_mean(name, known)} There are: {', '.join(known)}."
        )
    return TEMPLATE_SETS[name]


def fill(template: str, name: str, description: str = "", style: str = "") -> str:
    """One sentence with the class name, its description after a comma, and the style.

    Example:
        >>> fill("a photo of a {class}.", "crane", "a large wading bird")
        'a photo of a crane, a large wading bird.'
    """
    if "{class}" not in template:
        raise ConfigError(
            f"the template '{template}' does not contain {{class}}. Write it where the class name belongs."
        )
    noun = f"{spoken(name)}, {description}" if description else spoken(name)
    # The style first, since a class name may contain "{style}".
    return noun.join(part.replace("{style}", style) for part in template.split("{class}"))


def sentence_template(setting: str, default: str, suited: str) -> str:
    """The sentence of the images that the setting ``prompts.template`` means.

    Args:
        setting: A text with ``{class}``; the name of a template set, for its first sentence; or ``"default"``.
        default: The prompt strategy's own sentence.
        suited: Template set that suits the teacher, which ``"auto"`` means.

    Raises:
        ConfigError: A text without ``{class}``.
    """
    if setting == DEFAULT:
        return default
    if "{class}" in setting:
        return setting
    if len(setting.split()) != 1 or "{" in setting:
        raise ConfigError(
            f"prompts.template '{setting}' does not contain {{class}}. Write it where the class name belongs."
        )
    return template_set(setting, suited)[0]


def put_tokens(template: str, words: str) -> str:
    """The sentence with ``words``, possibly none, in place of ``{tokens}``."""
    return " ".join(template.replace("{tokens}", words).split())


def class_texts(task: Task, templates: Sequence[str]) -> list[list[str]]:
    """The texts of each class, one per template; the class vector is the mean of their vectors."""
    if not templates:
        raise ConfigError("the list of templates is empty. Give at least one, such as 'a photo of a {class}'.")
    return [
        [fill(template, name, description) for template in templates]
        for name, description in zip(task.names, task.descriptions, strict=True)
    ]
