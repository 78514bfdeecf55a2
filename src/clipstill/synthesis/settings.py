"""What can be set about synthesis. Light: no tensor library is loaded."""

from __future__ import annotations

import math
from dataclasses import dataclass

from clipstill.core.errors import ConfigError, did_you_mean
from clipstill.core.packaged_weights import LITE


@dataclass(frozen=True)
class SynthesisSettings:
    """How images are made.

    Attributes:
        steps: of the optimiser, for each image.
        lr: of Adam, with a cosine to a tenth; times the generator's own factor.
        views: an image and step.
        image_size: side in pixels.
        coarse_share: share of the steps that work at about half that side, in [0, 1).
        group_size: most members of a group: the unit of work, and of common statistics.
        slots: most images at work at once where nothing couples them; 0 takes the whole group.
        settle_margin: an image may end early where the teacher's probability of its class leads that of all others by
            this much, in [0, 1], and its loss falls no more; 0 gives every image all steps. Images that share
            statistics always take all steps.
        settle_patience: steps without progress that count as falling no more.
        precision: of generator and teacher at work, ``"fp32"`` or ``"bf16"`` (autocast; latents and losses stay
            float32).
        compile: compile generator and teacher; pays for long runs on GPUs.
        text_weight: of image-text matching.
        class_weight: of class consistency.
        bn_weight: of the teacher's BatchNorm statistics; teachers without any ignore it.
        natural_weight: of the BatchNorm statistics of ``natural_networks``.
        natural_networks: packaged ImageNet networks, ``"lite0"`` or ``"lite2"``; those whose statistics the teacher
            carries itself are left out where ``bn_weight`` is above 0.
        tv_weight: of total variation; times the generator's own factor.
        prior_weight: of the generator's prior.
        crop_min: least side of a view's crop, as a share of the image's side, in (0, 1].
        degrees: largest turn of a view.
        light: largest relative change of a view's light, contrast and colour, in [0, 1).
        noise: largest standard deviation of a view's noise.
    """

    steps: int = 60
    lr: float = 0.05
    views: int = 1
    image_size: int = 96
    coarse_share: float = 0.0
    group_size: int = 28
    slots: int = 0
    settle_margin: float = 0.0
    settle_patience: int = 10
    precision: str = "fp32"
    compile: bool = False
    text_weight: float = 1.0
    class_weight: float = 1.0
    bn_weight: float = 2.0
    natural_weight: float = 0.0
    natural_networks: tuple[str, ...] = ()
    tv_weight: float = 0.0
    prior_weight: float = 0.0
    crop_min: float = 0.7
    degrees: float = 10.0
    light: float = 0.2
    noise: float = 0.0

    def __post_init__(self) -> None:
        """Refuse values that nothing can be made with.

        Raises:
            ConfigError: names the setting and what it may be, or says that nothing pulls an image to its class.
        """
        for name, (least, most) in _RANGES.items():
            value = getattr(self, name)
            if not least <= value <= most:
                raise ConfigError(f"synthesis.{name} is {value}. It must lie between {least:g} and {most:g}.")
        if self.precision not in PRECISIONS:
            hint = did_you_mean(self.precision, PRECISIONS)
            raise ConfigError(
                f"synthesis.precision is '{self.precision}'.{hint} It must be one of {', '.join(PRECISIONS)}."
            )
        if self.text_weight == 0 and self.class_weight == 0:
            raise ConfigError("synthesis.text_weight and synthesis.class_weight are both 0. Give one of them a weight.")
        for name in self.natural_networks:
            if name not in LITE:
                raise ConfigError(
                    f"synthesis.natural_networks: no network named '{name}'.{did_you_mean(name, LITE)} "
                    f"There are: {', '.join(LITE)}."
                )

    def coarse_size(self, stride: int) -> int:
        """Side of the coarse images: half of ``image_size``, up to a multiple of the generator's stride."""
        return max(_SMALLEST_SIDE, math.ceil(self.image_size / 2 / stride) * stride)

    def resolutions(self, stride: int) -> list[tuple[int, int, int]]:
        """Side in pixels, first step, and the step that it ends before, of each resolution that is worked at."""
        first = round(self.coarse_share * self.steps)
        coarse = self.coarse_size(stride)
        if first == 0 or coarse >= self.image_size:
            return [(self.image_size, 0, self.steps)]
        return [(coarse, 0, first), (self.image_size, first, self.steps)]


PRECISIONS = ("fp32", "bf16")
_SMALLEST_SIDE = 32
_MANY = 10_000_000
_RANGES: dict[str, tuple[float, float]] = {
    "steps": (1, _MANY),
    "lr": (1e-6, 100),
    "views": (1, 1_000),
    "image_size": (_SMALLEST_SIDE, 1_024),
    "coarse_share": (0, 0.95),
    "slots": (0, 65_536),
    "settle_margin": (0, 1),
    "settle_patience": (1, _MANY),
    "group_size": (1, 65_536),
    "text_weight": (0, _MANY),
    "class_weight": (0, _MANY),
    "bn_weight": (0, _MANY),
    "natural_weight": (0, _MANY),
    "tv_weight": (0, _MANY),
    "prior_weight": (0, _MANY),
    "crop_min": (0.01, 1),
    "degrees": (0, 180),
    "light": (0, 0.99),
    "noise": (0, 1),
}
