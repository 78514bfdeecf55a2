"""The teacher's answers that a student learns.

Shapes: N images, C classes, D teacher dimensions.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor

from clipstill.core.tensors import logits

if TYPE_CHECKING:
    from clipstill.core.protocols import Teacher


class SoftLabels:
    """Unit vectors and logits of a teacher; zeros if there is no teacher.

    Args:
        teacher: Teacher on the device of the class vectors, or None.
        class_vectors_CD: Unit vectors of the classes.
    """

    def __init__(self, teacher: Teacher | None, class_vectors_CD: Tensor) -> None:
        self._teacher, self.class_vectors_CD = teacher, class_vectors_CD.float()
        self._scale = 1.0 if teacher is None else float(teacher.logit_scale)

    @property
    def key(self) -> list[Any]:
        """What the answers depend on, beside the class vectors."""
        return [] if self._teacher is None else [self._teacher.name, self._teacher.weights_sha256, self._scale]

    def vectors(self, x_N3HW: Tensor) -> Tensor:
        """Images in [0, 1] -> unit vectors (N, D)."""
        if self._teacher is None:
            return x_N3HW.new_zeros((len(x_N3HW), self.class_vectors_CD.shape[1]))
        return self._teacher.encode_image(x_N3HW)

    def logits(self, feat_ND: Tensor) -> Tensor:
        """Unit vectors -> logits (N, C)."""
        return logits(feat_ND, self.class_vectors_CD, self._scale)
