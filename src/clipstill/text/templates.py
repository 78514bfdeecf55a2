"""Sentences around a class name. A teacher that learned from captions knows sentences better than bare words."""

from __future__ import annotations

from collections.abc import Sequence

from clipstill.core.errors import ConfigError, UnknownNameError, did_you_mean
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
TEMPLATE_SETS = {"plain": CLASS_TEMPLATES, "name": NAME_TEMPLATES}
# Stands for the set that suits the teacher.
AUTO = "auto"

# Source: Wei et al., ICLR 2025, "[class text] in the style of [style]".
STYLE_TEMPLATE = "a {class} in the style of {style}"
PLAIN_TEMPLATE = "a photo of a {class}"


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
    noun = " ".join(name.replace("_", " ").split())
    if description:
        noun = f"{noun}, {description}"
    # One pass, so that a name that itself holds "{style}" stays what it is.
    parts = template.split("{class}")
    return noun.join(part.replace("{style}", style) for part in parts)


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
