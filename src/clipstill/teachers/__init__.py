"""Teachers: CLIP-like dual encoders, found by name.

Every factory has the same call: ``factory(rest, device, precision) -> Teacher``, where ``rest`` is what follows the
family's colon (an empty string for plain names). Names that are joined by ``+`` make an ensemble.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from clipstill.core.device import precision_on
from clipstill.core.errors import ConfigError
from clipstill.core.protocols import Teacher
from clipstill.core.registry import Part, Registry

if TYPE_CHECKING:
    import torch
    from torch import Tensor

# Names in the settings -> torch's names.
PRECISIONS = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}

teachers = Registry(
    "teacher",
    {
        "embedded-m": Part(
            "clipstill.teachers.embedded:embedded_m", "you begin: the default, everyday things", "59.9 MB", "Apache-2.0"
        ),
        "embedded-s": Part(
            "clipstill.teachers.embedded:embedded_s",
            "half the size and time count more than two points",
            "27.9 MB",
            "Apache-2.0",
        ),
    },
    prefixes={
        "openclip": Part(
            "clipstill.teachers.openclip:load_openclip",
            "the classes are fine-grained or unusual, such as openclip:ViT-B-32-quickgelu/openai",
            "from 100 MB",
            "of the checkpoint",
        )
    },
)


def resolve_teachers(names: str) -> list[tuple[Callable[..., Any], str]]:
    """Factory of each teacher of a name, which may join several by ``+``, and the rest of its name."""
    return [teachers.resolve(part) for part in teachers.split(names)]


def load_teacher(name: str, device: torch.device, precision: str = "fp32") -> Teacher:
    """Load a teacher, frozen and in evaluation mode.

    Args:
        name: Name such as ``"embedded-s"`` or ``"openclip:ViT-B-32/openai"``; several are joined by ``+``.
        precision: Precision of the towers' weights, or ``"auto"``; features are always float32.

    Raises:
        UnknownNameError: There is no such teacher.
        ConfigError: The precision is unknown, or fp16 without a GPU.
    """
    precision = precision_on(device, precision)
    if precision not in PRECISIONS:
        raise ConfigError(f"teacher.precision is '{precision}'; it must be one of {', '.join(PRECISIONS)}.")
    if precision == "fp16" and device.type == "cpu":
        raise ConfigError("teacher.precision is fp16, which needs a GPU. Use bf16 or fp32 on the CPU.")
    found: list[Teacher] = [factory(rest, device, precision) for factory, rest in resolve_teachers(name)]
    if len(found) == 1:
        return found[0]
    from clipstill.teachers.ensemble import ensemble

    return ensemble(found)


def class_vectors(
    teacher: Teacher,
    texts_per_class: Sequence[Sequence[str]],
    encode: Callable[[Sequence[str]], Tensor] | None = None,
) -> Tensor:
    """Unit vector of each class: the mean of its texts' unit vectors, normalised again.

    Args:
        texts_per_class: At least one text for each of C classes.
        encode: What encodes the texts; the teacher where None.

    Returns:
        Class vectors (C, D), float32.

    Source: Radford et al., 2021, section 3.1.4 (ensembling in embedding space).
    """
    import torch
    from torch.nn.functional import normalize

    vectors_MD = (encode or teacher.encode_text)([text for texts in texts_per_class for text in texts])
    parts = torch.split(vectors_MD, [len(texts) for texts in texts_per_class])
    means = [part.mean(dim=0) for part in parts]
    return normalize(torch.stack(means), dim=-1)
