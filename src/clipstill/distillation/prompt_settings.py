"""How a teacher's prompts are learned, as plain values; nothing heavy is loaded for them."""

from __future__ import annotations

from dataclasses import dataclass

from clipstill.core.errors import ConfigError


@dataclass(frozen=True)
class PromptTuningSettings:
    """How prompts are learned. The values are PromptSRC's for a ViT-L/14.

    Attributes:
        epochs: passes over the images.
        batch: images a step.
        lr: peak learning rate of SGD with momentum 0.9.
        warmup_lr: of the whole first epoch.
        weight_decay: of everything that is learned.
        text_weight: of the mean absolute difference between prompted and plain class vectors.
        image_weight: of that between prompted and plain vectors of images.
        logit_weight: of the divergence of the prompted logits from the plain ones.
        average_mean: epoch around which weights are averaged, by a Gaussian; 0 keeps the last epoch's.
        average_std: of that Gaussian, in epochs.
        crop_min: least share of the area that a random crop keeps.
        views: passes of crops whose plain vectors are kept, where what is learned comes after the towers; they then
            come again.
        text_chunk: classes whose texts are in memory at once, each chunk made again on the way back; 0 for all.
        seed: of order and views.
    """

    epochs: int = 20
    batch: int = 8
    lr: float = 0.005
    warmup_lr: float = 1e-5
    weight_decay: float = 5e-4
    text_weight: float = 25.0
    image_weight: float = 10.0
    logit_weight: float = 1.0
    average_mean: float = 15.0
    average_std: float = 1.0
    crop_min: float = 0.08
    views: int = 4
    text_chunk: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse values that cannot be trained with.

        Raises:
            ConfigError: names the setting.
        """
        for name in ("epochs", "batch", "views"):
            if getattr(self, name) < 1:
                raise ConfigError(f"prompt_teacher.{name} is {getattr(self, name)}. It must be at least 1.")
        for name in (
            "lr",
            "warmup_lr",
            "weight_decay",
            "text_weight",
            "image_weight",
            "logit_weight",
            "average_mean",
            "text_chunk",
        ):
            if getattr(self, name) < 0:
                raise ConfigError(f"prompt_teacher.{name} is {getattr(self, name)}. It must not be negative.")
        if self.average_std <= 0:
            raise ConfigError(f"prompt_teacher.average_std is {self.average_std}. It must be above 0.")
        if not 0 < self.crop_min <= 1:
            raise ConfigError(f"prompt_teacher.crop_min is {self.crop_min}. It must lie above 0 and not above 1.")
