"""A teacher's image tower as the backbone of a student: all its weights frozen, with prompt tokens or without.

Shapes: N images, F features, S side of an image in pixels.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor, nn

from clipstill.core.errors import ConfigError
from clipstill.core.protocols import Teacher
from clipstill.teachers.embedded import EmbeddedTeacher

if TYPE_CHECKING:
    from clipstill.teachers.deep_prompts import VisualPrompts


def image_backbone(teacher: Teacher, *, tokens: int = 0, depth: int = 1, image_size: int, seed: int = 0) -> nn.Module:
    """Normalised images (N, 3, S, S) -> features (N, F). Only its prompts require a gradient.

    Args:
        teacher: Teacher that shares its tower's weights.
        tokens: Learned tokens in each prompted layer of a CLIP's vision transformer; 0 for none.
        depth: Layers with tokens, counted from the first.
        image_size: Side of an image, S; a tower of CLIP takes its own size alone.
        seed: Seed of the tokens.

    Raises:
        ConfigError: The teacher is of another kind, or its tower does not take the size or the tokens.
    """
    if isinstance(teacher, EmbeddedTeacher):
        return EmbeddedBackbone(teacher)
    # Here, since open_clip takes seconds to import.
    from clipstill.teachers.deep_prompts import VisualPrompts
    from clipstill.teachers.openclip import OpenClipTeacher

    if not isinstance(teacher, OpenClipTeacher):
        raise ConfigError(
            f"the image tower of {teacher.name} cannot be a student. Choose one of open_clip or embedded-s."
        )
    if image_size != teacher.image_size:
        raise ConfigError(
            f"student.image_size is {image_size}; the image tower of {teacher.name} takes {teacher.image_size} "
            f"pixels a side. Set it to that."
        )
    prompts = VisualPrompts(teacher.image_tower, tokens, depth, seed) if tokens else None
    return OpenClipBackbone(teacher.image_tower, prompts)


class OpenClipBackbone(nn.Module):
    """Image tower of open_clip; its vectors are not of unit length."""

    def __init__(self, visual: nn.Module, prompts: VisualPrompts | None) -> None:
        super().__init__()
        self.visual = visual
        self.prompts = prompts

    def forward(self, x_N3SS: Tensor) -> Tensor:
        """Normalised images -> vectors (N, F)."""
        x_N3SS = x_N3SS.to(next(self.visual.parameters()).dtype)
        vectors = self.visual(x_N3SS) if self.prompts is None else self.prompts(self.visual, x_N3SS)
        # CoCa's tower gives its tokens too.
        vectors_NF: Tensor = vectors[0] if isinstance(vectors, tuple) else vectors
        return vectors_NF.float()


class EmbeddedBackbone(nn.Module):
    """Image towers of an embedded teacher, up to its unit vectors."""

    def __init__(self, teacher: EmbeddedTeacher) -> None:
        super().__init__()
        self.networks = nn.ModuleList(tower.network for tower in teacher.towers)
        self.alignments = nn.ModuleList(tower.alignment for tower in teacher.towers)
        # The alignments compute with it; here it has a name in exported graphs.
        self.register_buffer("class_names_KE", teacher.words.class_names_KE, persistent=False)
        # In a list: the teacher is no module, and computes with the two lists above.
        self._teacher = [teacher]

    def forward(self, x_N3SS: Tensor) -> Tensor:
        """Normalised images -> unit vectors (N, F)."""
        return self._teacher[0].encode_normalised(x_N3SS)
