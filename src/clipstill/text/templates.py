"""Sentences around a class name. A teacher that learned from captions knows sentences better than bare words."""

from __future__ import annotations

from collections.abc import Sequence

from clipstill.core.errors import ConfigError, UnknownNameError, did_you_mean
from clipstill.core.names import spoken
from clipstill.text.task import Task

# Plain ones of the ensemble that CLIP's authors published for ImageNet: those that name no medium and no oddity, since
# a class vector is to stand for the class in every style.
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
# One hand-written sentence a data set, as in CoOp (Zhou et al., IJCV 2022) and the papers that compare with it.
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
# Stands for the set that suits the teacher.
AUTO = "auto"
# Stands for the sentence that a prompt strategy has of its own.
DEFAULT = "default"

# Source: Wei et al., ICLR 2025, "[class text] in the style of [style]".
STYLE_TEMPLATE = "a {class} in the style of {style}"
PLAIN_TEMPLATE = "a photo of a {class}"
# Source: Cho et al., ICCV 2023 (PromptStyler), "a S* style of a [class]"; S* are pseudo-words.
PSEUDO_TEMPLATE = "a {tokens} style of a {class}"
# Other sentences of the same content: the text augmentation of the contrastive losses. Our choice.
STYLE_VIEWS = (
    "a photo of a {class} in the style of {style}",
    "a {class}, {style}",
    "the {class} in {style} style",
)
PSEUDO_VIEWS = (
    "a {class} in a {tokens} style",
    "a photo of a {class} in a {tokens} style",
    "a {tokens} {class}",
)


def template_set(name: str, suited: str) -> tuple[str, ...]:
    """The templates of a named set.

    Args:
        name: of the set, or ``"auto"``.
        suited: the set that suits the teacher, which ``"auto"`` stands for.

    Raises:
        UnknownNameError: with the closest name.
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
    """One sentence: the class name with spaces for underscores, its description after it as an apposition.

    Raises:
        ConfigError: the template has no ``{class}``.

    Example:
        >>> fill("a photo of a {class}.", "crane", "a large wading bird")
        'a photo of a crane, a large wading bird.'
    """
    if "{class}" not in template:
        raise ConfigError(
            f"the template '{template}' does not contain {{class}}. Write it where the class name belongs."
        )
    noun = spoken(name)
    if description:
        noun = f"{noun}, {description}"
    # One pass, so that a name that itself holds "{style}" stays what it is.
    parts = template.split("{class}")
    return noun.join(part.replace("{style}", style) for part in parts)


def sentence_template(setting: str, default: str, suited: str) -> str:
    """The sentence of the images that a setting stands for.

    Args:
        setting: a text with ``{class}``; the name of a template set, whose first sentence is taken; or ``"default"``.
        default: the sentence of the prompt strategy.
        suited: the template set that suits the teacher, which ``"auto"`` stands for.

    Raises:
        ConfigError: a text without ``{class}``.
        UnknownNameError: a word that names no set.
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


def styled_template(template: str) -> str:
    """The same sentence with a place for the style: ``"[t] in the style of [d]"`` where it has none.

    Example:
        >>> styled_template("a photo of a {class}, a type of pet.")
        'a photo of a {class}, a type of pet in the style of {style}'
    """
    if "{style}" in template:
        return template
    return f"{template.rstrip().removesuffix('.')} in the style of {{style}}"


def token_template(template: str) -> str:
    """The same sentence with a place for soft tokens: before the class name where it has none.

    Example:
        >>> token_template("a {class} in the style of {style}")
        'a {tokens} {class} in the style of {style}'
    """
    return template if "{tokens}" in template else template.replace("{class}", "{tokens} {class}", 1)


def put_tokens(template: str, words: str) -> str:
    """The sentence with words, or none, in the place of its soft tokens.

    Example:
        >>> put_tokens("a {tokens} {class}", "")
        'a {class}'
    """
    return " ".join(template.replace("{tokens}", words).split())


def refuse_marks(template: str, strategy: str, *marks: str) -> None:
    """Refuse a sentence that asks for what a strategy does not have.

    Raises:
        ConfigError: the sentence holds one of the marks, such as ``{style}``.
    """
    for mark in marks:
        if mark in template:
            raise ConfigError(
                f"prompts.template '{template}' holds {mark}, of which the strategy '{strategy}' has none. "
                "Leave it out or choose another strategy."
            )


def class_texts(task: Task, templates: Sequence[str]) -> list[list[str]]:
    """The texts of each class, one a template: what its class vector is the mean of.

    Raises:
        ConfigError: no template, or one without ``{class}``.
    """
    if not templates:
        raise ConfigError("the list of templates is empty. Give at least one, such as 'a photo of a {class}'.")
    return [
        [fill(template, name, description) for template in templates]
        for name, description in zip(task.names, task.descriptions, strict=True)
    ]
