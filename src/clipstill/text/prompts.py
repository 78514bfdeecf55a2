"""Which images are made: one prompt an image, each with its own seed and its own vector in the teacher's space.

A strategy is ``strategy(request: PromptRequest) -> PromptSet``, found by name in ``prompt_strategies``. Here are the
two that need no more than words; those with mixed vectors, soft tokens and learning lie in files of their own.

Shapes: N images, C classes, D teacher dimensions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from clipstill.core.errors import ConfigError
from clipstill.core.seeds import seed_for
from clipstill.text.settings import PromptSettings
from clipstill.text.task import Task
from clipstill.text.templates import (
    PLAIN_TEMPLATE,
    STYLE_TEMPLATE,
    fill,
    refuse_marks,
    sentence_template,
    styled_template,
)

if TYPE_CHECKING:
    from torch import Tensor

    from clipstill.core.protocols import Teacher
    from clipstill.text.bank import Bank

# Texts are short; this many at once keep the text tower busy and its memory small.
TEXTS_AT_ONCE = 256


@dataclass(frozen=True)
class Prompt:
    """The target of one synthetic image.

    Attributes:
        class_id: position of the class in the task.
        style_id: position of the style in the run's list, or of the pseudo-style in the strategy's.
        index: number of the image within its class, from 0.
        seed: of everything random about this image.
        text: what the teacher is asked to see, in words; what soft tokens and mixed vectors add is in the target only.
    """

    class_id: int
    style_id: int
    index: int
    seed: int
    text: str


@dataclass(frozen=True)
class PromptRequest:
    """What a strategy may look at.

    Attributes:
        task: at least two classes.
        styles: style words; strategies without styles do not look at them.
        per_class: images a class, at least 1.
        seed: of the run.
        teacher: whose text tower makes the targets.
        class_vectors_CD: unit vectors, one a class.
        settings: of the strategies.
        bank: soft tokens that an earlier run learned, instead of learning them.
    """

    task: Task
    styles: Sequence[str]
    per_class: int
    seed: int
    teacher: Teacher
    class_vectors_CD: Tensor
    settings: PromptSettings = field(default_factory=PromptSettings)
    bank: Bank | None = None


@dataclass(frozen=True)
class PromptSet:
    """What a strategy returns.

    Attributes:
        prompts: in round-robin order: each consecutive block of C prompts has one of every class.
        targets_ND: float32 unit vectors on the CPU, one a prompt.
        style_names: one a style id; empty where images have no style, ``"S1"``, ``"S2"``, ... for pseudo-styles.
        bank: what was learned, or given; None for strategies that learn nothing.
    """

    prompts: list[Prompt]
    targets_ND: Tensor
    style_names: tuple[str, ...]
    bank: Bank | None = None


def styled_prompts(request: PromptRequest) -> PromptSet:
    """Spread each class evenly over the styles.

    The order is round-robin, so that any prefix is balanced. An image's seed depends on the run's seed, the class name,
    the style's name and its index: another class or more images a class leave the others as they are.

    Raises:
        ConfigError: no style, fewer than one image a class, a bank, or a template with ``{tokens}``.

    Source: Wei et al., ICLR 2025, style dictionary; 64 images a class over 16 styles there.
    """
    refuse_bank(request, "styles")
    template = styled_template(sentence_template(request.settings.template, STYLE_TEMPLATE, request.teacher.templates))
    refuse_marks(template, "styles", "{tokens}")
    prompts = round_robin(request, template, styles_of_request(request))
    return PromptSet(prompts, encode_texts(request.teacher, prompts), tuple(request.styles))


def plain_prompts(request: PromptRequest) -> PromptSet:
    """The baseline without style words: every image of a class has one text and style id 0.

    Raises:
        ConfigError: fewer than one image a class, a bank, or a template with ``{style}`` or ``{tokens}``.
    """
    refuse_bank(request, "plain")
    template = sentence_template(request.settings.template, PLAIN_TEMPLATE, request.teacher.templates)
    refuse_marks(template, "plain", "{style}", "{tokens}")
    prompts = round_robin(request, template, ("",))
    return PromptSet(prompts, encode_texts(request.teacher, prompts), ("",))


def round_robin(request: PromptRequest, template: str, styles: Sequence[str]) -> list[Prompt]:
    """One prompt an image, styles in turn within each class, one of every class in each block of C.

    Args:
        template: with ``{class}``, and ``{style}`` where the style's name belongs.
        styles: at least one; the name is part of the image's seed.

    Raises:
        ConfigError: fewer than one image a class.
    """
    check_count(request)
    classes = list(zip(request.task.names, request.task.descriptions, strict=True))
    prompts: list[Prompt] = []
    for index in range(request.per_class):
        style_id = index % len(styles)
        style = styles[style_id]
        for class_id, (name, description) in enumerate(classes):
            text = fill(template, name, description, style)
            prompts.append(Prompt(class_id, style_id, index, seed_for(request.seed, name, style, index), text))
    return prompts


def encode_texts(teacher: Teacher, prompts: Sequence[Prompt]) -> Tensor:
    """targets_ND of prompts that are no more than their texts; each text is encoded once."""
    import torch

    texts = list(dict.fromkeys(prompt.text for prompt in prompts))
    row = {text: number for number, text in enumerate(texts)}
    starts = range(0, len(texts), TEXTS_AT_ONCE)
    vectors = torch.cat([teacher.encode_text(texts[at : at + TEXTS_AT_ONCE]).float().cpu() for at in starts])
    return vectors[torch.tensor([row[prompt.text] for prompt in prompts])]


def check_count(request: PromptRequest) -> None:
    """Refuse to make no image.

    Raises:
        ConfigError: fewer than one image a class.
    """
    if request.per_class < 1:
        raise ConfigError(f"images_per_class is {request.per_class}; it must be at least 1.")


def styles_of_request(request: PromptRequest) -> tuple[str, ...]:
    """The style words.

    Raises:
        ConfigError: there is none.
    """
    if not request.styles:
        raise ConfigError("the list of styles is empty. Give at least one, or choose the prompt strategy 'plain'.")
    return tuple(request.styles)


def refuse_bank(request: PromptRequest, strategy: str) -> None:
    """Refuse a bank where nothing is learned.

    Raises:
        ConfigError: a bank was given.
    """
    if request.bank is not None:
        raise ConfigError(
            f"prompts.bank is given, and the strategy '{strategy}' learns nothing that it could stand for. "
            f"Set prompts.strategy={request.bank.strategy}, or prompts.bank=null."
        )
