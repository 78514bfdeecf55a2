"""Which images are made: one prompt an image, each with its own seed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from clipstill.core.errors import ConfigError
from clipstill.core.seeds import seed_for
from clipstill.text.task import Task
from clipstill.text.templates import PLAIN_TEMPLATE, STYLE_TEMPLATE, fill


@dataclass(frozen=True)
class Prompt:
    """The target of one synthetic image.

    Attributes:
        class_id: position of the class in the task.
        style_id: position of the style in the run's list.
        index: number of the image within its class, from 0.
        seed: of everything random about this image.
        text: what the teacher is asked to see.
    """

    class_id: int
    style_id: int
    index: int
    seed: int
    text: str


def styled_prompts(task: Task, styles: Sequence[str], per_class: int, seed: int) -> list[Prompt]:
    """Spread each class evenly over the styles.

    The order is round-robin: each consecutive block of C prompts (C classes) has one of every class, so that any
    prefix is balanced. An image's seed depends on the run's seed, the class name, the style's name and its index:
    another class or more images a class leave the others as they are.

    Args:
        styles: at least one.
        per_class: images a class, at least 1.

    Raises:
        ConfigError: no style, or fewer than one image a class.

    Source: Wei et al., ICLR 2025, style dictionary; 64 images a class over 16 styles there.
    """
    if not styles:
        raise ConfigError("the list of styles is empty. Give at least one, or choose the prompt strategy 'plain'.")
    return _round_robin(task, STYLE_TEMPLATE, styles, per_class, seed)


def plain_prompts(task: Task, styles: Sequence[str], per_class: int, seed: int) -> list[Prompt]:
    """The same without style words: every image of a class has one text and style id 0.

    Args:
        styles: not looked at; it is here because every strategy is called alike.

    Raises:
        ConfigError: fewer than one image a class.
    """
    del styles
    return _round_robin(task, PLAIN_TEMPLATE, ("",), per_class, seed)


def _round_robin(task: Task, template: str, styles: Sequence[str], per_class: int, seed: int) -> list[Prompt]:
    if per_class < 1:
        raise ConfigError(f"images_per_class is {per_class}; it must be at least 1.")
    classes = list(zip(task.names, task.descriptions, strict=True))
    prompts: list[Prompt] = []
    for index in range(per_class):
        style_id = index % len(styles)
        style = styles[style_id]
        for class_id, (name, description) in enumerate(classes):
            text = fill(template, name, description, style)
            prompts.append(Prompt(class_id, style_id, index, seed_for(seed, name, style, index), text))
    return prompts
