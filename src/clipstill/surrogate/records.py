"""What is known of each synthetic image; it travels beside the picture."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, fields

from clipstill.core.errors import ArtifactError


@dataclass(frozen=True)
class ImageRecord:
    """One synthetic image.

    Attributes:
        class_id: position of its class in the task.
        style_id: position of its style in the run's list.
        index: its number within the class.
        seed: the seed that it was made from.
        prompt: the text that it was made to match.
        loss: last value of its own objective.
        score: the teacher's probability of its class, in [0, 1].
        image_size: side in pixels.
        generator: that drew it.
        steps: that its optimisation took.
        codes: codebook indices, row by row, where the generator has a codebook: with it they are the image.
    """

    class_id: int
    style_id: int
    index: int
    seed: int
    prompt: str
    loss: float
    score: float
    image_size: int
    generator: str
    steps: int
    codes: list[int] | None = None

    def to_json(self) -> str:
        """One line of JSON with sorted keys.

        Raises:
            ArtifactError: the loss or the score is not a number, which means that the synthesis diverged.
        """
        if not (math.isfinite(self.loss) and math.isfinite(self.score)):
            raise ArtifactError(
                f"image {self.index} of class {self.class_id} ('{self.prompt}') ended with loss {self.loss} and score "
                f"{self.score}. Its synthesis diverged; use a smaller synthesis.lr."
            )
        return json.dumps(asdict(self), sort_keys=True, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str | bytes) -> ImageRecord:
        """The record of ``to_json``.

        Raises:
            ArtifactError: it is not one.
        """
        try:
            raw = json.loads(text)
            return cls(**{field.name: raw[field.name] for field in fields(cls)})
        except (ValueError, TypeError, KeyError) as error:
            raise ArtifactError(
                f"the record of a synthetic image is malformed ({error!r}). Make the surrogate set again."
            ) from None
