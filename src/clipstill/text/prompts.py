"""One prompt per synthetic image: its text, its seed, and its target vector in the teacher's space.

A strategy is ``strategy(request: PromptRequest) -> PromptSet``, registered in ``prompt_strategies``. This file has the
two strategies that need words only. Shapes: N images, C classes, D teacher dimensions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from clipstill.core.errors import ConfigError
from clipstill.core.seeds import seed_for
from clipstill.text.settings import PromptSettings
from clipstill.text.task import Task
from clipstill.text.templates import PLAIN_TEMPLATE, STYLE_TEMPLATE, fill, sentence_template

if TYPE_CHECKING:
    from torch import Tensor

    from clipstill.core.protocols import Teacher

TEXTS_AT_ONCE = 256  # Batch of the text tower.


@dataclass(frozen=True)
class Prompt:
    """The target of one synthetic image."""

    class_id: int  # Position of the class in the task.
    style_id: int  # Position in ``PromptSet.style_names``.
    index: int  # Number of the image within its class, from 0.
    seed: int  # Seed of everything random about this image.
    text: str  # Target in words. Only the target vector has the soft tokens or the weights of a mean.


@dataclass(frozen=True)
class PromptRequest:
    """The inputs of a prompt strategy."""

    task: Task  # At least two classes.
    per_class: int  # Images per class, at least 1.
    seed: int  # Seed of the run.
    teacher: Teacher  # Its text tower makes the target vectors.
    class_vectors_CD: Tensor  # One unit vector per class.
    settings: PromptSettings = field(default_factory=PromptSettings)  # Settings of the strategies.


@dataclass(frozen=True)
class PromptSet:
    """The output of a prompt strategy."""

    prompts: list[Prompt]  # In round-robin order: each consecutive block of C prompts has one of every class.
    targets_ND: Tensor  # One float32 unit vector per prompt, on the CPU.
    # One per style id: a style word, ``""`` without styles, ``"S1"``, ``"S2"``, ... for pseudo-styles.
    style_names: tuple[str, ...]


def styled_prompts(request: PromptRequest) -> PromptSet:
    """Spread each class evenly over the styles.

    Source: Wei et al., ICLR 2025, style dictionary; 64 images per class over 16 styles there.
    """
    styles = request.settings.styles
    prompts = round_robin(request, strategy_template(request, STYLE_TEMPLATE), styles)
    return PromptSet(prompts, encode_texts(request.teacher, prompts), styles)


def plain_prompts(request: PromptRequest) -> PromptSet:
    """The baseline without style words: every image of a class has the same text and style id 0."""
    prompts = round_robin(request, strategy_template(request, PLAIN_TEMPLATE), ("",))
    return PromptSet(prompts, encode_texts(request.teacher, prompts), ("",))


def strategy_template(request: PromptRequest, own: str) -> str:
    """The sentence of the images, with ``{style}`` and ``{tokens}`` if the strategy's ``own`` sentence has them.

    Where they are missing, the style is added at the end, and the tokens before the class name.

    Raises:
        ConfigError: The sentence of the settings holds ``{style}`` or ``{tokens}``, but the strategy does not use it.
    """
    template = sentence_template(request.settings.template, own, request.teacher.templates)
    for mark in ("{style}", "{tokens}"):
        if mark in template and mark not in own:
            raise ConfigError(
                f"prompts.template '{template}' holds {mark}, but the prompt strategy has none. "
                "Leave it out or choose another strategy."
            )
    if "{style}" in own and "{style}" not in template:
        template = f"{template.rstrip().removesuffix('.')} in the style of {{style}}"
    if "{tokens}" in own and "{tokens}" not in template:
        template = template.replace("{class}", "{tokens} {class}", 1)
    return template


def round_robin(request: PromptRequest, template: str, styles: Sequence[str]) -> list[Prompt]:
    """One prompt per image; classes take turns, and styles within a class.

    A seed depends on the run's seed, the names of class and style, and the index, so that further classes or images
    leave the others as they are.
    """
    prompts: list[Prompt] = []
    for index in range(request.per_class):
        style_id = index % len(styles)
        for class_id, (name, description) in enumerate(zip(request.task.names, request.task.descriptions, strict=True)):
            text = fill(template, name, description, styles[style_id])
            seed = seed_for(request.seed, name, styles[style_id], index)
            prompts.append(Prompt(class_id, style_id, index, seed, text=text))
    return prompts


def encode_texts(teacher: Teacher, prompts: Sequence[Prompt]) -> Tensor:
    """The text vectors targets_ND of the prompts; equal texts are encoded once."""
    import torch

    texts = list(dict.fromkeys(prompt.text for prompt in prompts))
    row = {text: number for number, text in enumerate(texts)}
    starts = range(0, len(texts), TEXTS_AT_ONCE)
    vectors = torch.cat([teacher.encode_text(texts[at : at + TEXTS_AT_ONCE]).float().cpu() for at in starts])
    return vectors[torch.tensor([row[prompt.text] for prompt in prompts])]
