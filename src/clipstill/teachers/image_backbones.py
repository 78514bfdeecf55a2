"""A teacher's image tower as the backbone of a student: all its weights frozen, with prompts of its own or without.

Shapes: N images, F features, P prompt tokens, S side of an image in pixels.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from clipstill.core.errors import ConfigError
from clipstill.core.protocols import Teacher
from clipstill.teachers.deep_prompts import VisualPrompts
from clipstill.teachers.embedded import EmbeddedTeacher
from clipstill.teachers.openclip import OpenClipTeacher


def image_backbone(teacher: Teacher, prompts: int, depth: int, image_size: int, seed: int) -> nn.Module:
    """Normalised images (N, 3, S, S) -> features (N, F). What of it requires a gradient are prompts.

    Args:
        teacher: whose tower it is; the tower's weights are shared with it.
        prompts: learned tokens in each of the first layers of a vision transformer; for a convolutional tower the width
            in pixels of a learned frame around the image; 0 for none.
        depth: layers that get tokens; a frame has none.
        image_size: S; a transformer of CLIP takes its own size alone.
        seed: of the tokens.

    Raises:
        ConfigError: a teacher of another kind, a size that the tower does not take, or a frame without a picture.
    """
    if isinstance(teacher, OpenClipTeacher):
        if image_size != teacher.image_size:
            raise ConfigError(
                f"student.image_size is {image_size}; the image tower of {teacher.name} takes {teacher.image_size} "
                f"pixels a side. Set it to that."
            )
        return OpenClipBackbone(teacher, prompts, depth, seed)
    if isinstance(teacher, EmbeddedTeacher):
        return EmbeddedBackbone(teacher, prompts, image_size)
    raise ConfigError(f"the image tower of {teacher.name} cannot be a student. Choose one of open_clip or embedded-s.")


class OpenClipBackbone(nn.Module):
    """A tower of open_clip; deep prompts need a vision transformer read at its class token."""

    def __init__(self, teacher: OpenClipTeacher, prompts: int, depth: int, seed: int) -> None:
        super().__init__()
        self.visual = teacher.image_tower()
        self.prompts = VisualPrompts(self.visual, prompts, depth, seed) if prompts else None

    def forward(self, x_N3SS: Tensor) -> Tensor:
        """Normalised images -> vectors (N, F), not of unit length."""
        x_N3SS = x_N3SS.to(next(self.visual.parameters()).dtype)
        vectors_NF: Tensor = self.visual(x_N3SS) if self.prompts is None else self.prompts(self.visual, x_N3SS)
        return vectors_NF.float()


class EmbeddedBackbone(nn.Module):
    """The towers of an embedded teacher, up to its unit vectors, with a learned frame around the image or without.

    Source of the frame: Bahng et al., Exploring Visual Prompts for Adapting Large-Scale Models, 2022. That it stands
    for the tokens that a convolutional tower has no place for is an extension of clipstill.
    """

    inside_SS: Tensor

    def __init__(self, teacher: EmbeddedTeacher, frame: int, image_size: int) -> None:
        super().__init__()
        if 2 * frame >= image_size:
            raise ConfigError(
                f"a frame of {frame} pixels leaves nothing of an image of {image_size}. Set student.prompts lower."
            )
        towers = teacher.image_towers()
        self.networks = nn.ModuleList(tower.network for tower in towers)
        self.alignments = nn.ModuleList(tower.alignment for tower in towers)
        # Not a module: it reads through the two lists above.
        self._teacher = [teacher]
        self.prompts = nn.Parameter(torch.zeros(3, image_size, image_size)) if frame else None
        inside_SS = torch.zeros(image_size, image_size)
        inside_SS[frame : image_size - frame, frame : image_size - frame] = 1
        self.register_buffer("inside_SS", inside_SS, persistent=False)

    def forward(self, x_N3SS: Tensor) -> Tensor:
        """Normalised images -> unit vectors (N, F)."""
        if self.prompts is not None:
            x_N3SS = x_N3SS + self.prompts * (1 - self.inside_SS)
        return self._teacher[0].of_normalised(x_N3SS)
