"""What can be set about distillation. Light: no tensor library is loaded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from clipstill.core.errors import ConfigError

MetaMode = Literal["none", "first_order", "exact", "reptile"]


@dataclass(frozen=True)
class DistilSettings:
    """How a student is taught.

    Attributes:
        steps: optimiser steps of the main phase.
        minutes: that teaching may take, features included, instead of ``steps``: the time of the first steps tells how
            many there will be; 0 goes by ``steps``.
        epochs: passes over the pictures, which then decide the number of steps; 0 goes by ``steps``.
        batch: images a step, of all processes together.
        accumulate: parts of a batch that go through memory one after the other.
        precision: ``"fp32"``, or ``"bf16"`` for the student's passes; weights and losses stay in fp32.
        lr: peak learning rate of the backbone.
        head_lr: peak learning rate of the head, in every phase.
        weight_decay: decoupled; not on biases and BatchNorm.
        optimiser: ``"adamw"``, ``"sgd"`` (momentum 0.9, Nesterov) or ``"momentum"`` (the same without Nesterov's step).
        schedule: ``"steps"`` rises over ``warmup_steps`` and falls to zero as a cosine does; ``"epochs"``, which needs
            ``epochs``, keeps a five-hundredth of the peak for one epoch and falls by whole epochs then, as PromptKD
            does (Li et al., CVPR 2024).
        warmup_steps: steps of linear rise at the start of each phase.
        freeze: ``"backbone"`` trains the head alone on cached features of augmented views, which are computed once;
            ``"bn"`` tunes all weights and keeps BatchNorm's statistics; ``"none"`` trains everything, for students
            from scratch.
        head_steps: steps of a first phase that trains the head alone, by the same cache, before ``"bn"`` or ``"none"``
            goes on; 0 leaves it out. Not used with ``freeze="backbone"``.
        views: augmented passes over the pictures that are cached for the head, or by ``labels="cached"``.
        labels: ``"online"`` draws new views at every step and asks the teacher about them; ``"cached"`` draws ``views``
            passes, which then come again with the answers that the teacher gave. The head alone always does the latter.
        loss: ``"kd"``, the teacher's soft labels; ``"ce"``, hard ones: the class that a picture was made for, or the
            teacher's answer where it was made for none; ``"ce+kd"``, the sum.
        temperature: of the soft labels, above 0.
        kd_weight: of the soft labels' loss.
        kd_per_class: divide that loss by the number of classes, as PromptKD's code does: its weights of 200 and 1000
            are two and ten for a hundred classes, and a hundred for ten.
        feature_weight: of the loss between features and the teacher's vectors; 0 leaves it out.
        meta: over styles: ``"none"``, or how the gradient of the outer loss is computed: ``"first_order"``, ``"exact"``
            or ``"reptile"``. It needs two styles or more.
        meta_alpha: size of the inner step; 0 for the head's learning rate of the moment.
        meta_test_share: of the styles that a step is tried on, in (0, 1).
        meta_groups: inner steps of ``"reptile"``, each on styles of its own.
        ema: decay of the moving average of the weights, which is what is validated and kept; 0 keeps the raw weights.
        crop_min: least share of the area that a random crop keeps, in (0, 1].
        jitter: strength of the changes of brightness, contrast and saturation, in [0, 1]; a fifth of it for the hue.
        grayscale: share of views that lose their colours, in [0, 1].
        kernel: of the views' resize, with antialias: ``"bilinear"``, or ``"bicubic"``, which CLIP learned from.
        mix: share of views that are mixed with another picture: blended, or with a part of it pasted in; in [0, 1].
        keep: which validated weights are the result: most ``"agreement"`` with the teacher on held-out pictures (at
            equal agreement the least loss), least ``"loss"`` on them, or the ``"last"``.
        held_out_styles: styles that are not trained on and choose the best checkpoint. Where there are not more styles
            than that, every tenth picture of a class is held out; 0 holds nothing out and keeps the last step.
        feature_recentre: ``"mean"`` shifts the head's training input so that its mean on the synthetic pictures is the
            one that the pretrained BatchNorm predicts for natural images, ``"mean_std"`` scales its spread as well,
            ``"off"`` does neither.
        checkpoint_every: steps between validations; each is also a point from which a killed run goes on.
        channels_last: memory layout; faster for convolutions on most processors.
        seed: of everything that is drawn.
    """

    steps: int = 1000
    minutes: float = 0.0
    epochs: int = 0
    batch: int = 64
    accumulate: int = 1
    precision: Literal["fp32", "bf16"] = "fp32"
    lr: float = 1e-4
    head_lr: float = 3e-3
    weight_decay: float = 1e-4
    optimiser: Literal["adamw", "sgd", "momentum"] = "adamw"
    schedule: Literal["steps", "epochs"] = "steps"
    warmup_steps: int = 20
    freeze: Literal["backbone", "bn", "none"] = "backbone"
    head_steps: int = 0
    views: int = 4
    labels: Literal["online", "cached"] = "online"
    loss: Literal["kd", "ce", "ce+kd"] = "kd"
    temperature: float = 2.0
    kd_weight: float = 1.0
    kd_per_class: bool = False
    feature_weight: float = 0.0
    meta: MetaMode = "none"
    meta_alpha: float = 0.0
    meta_test_share: float = 0.25
    meta_groups: int = 4
    ema: float = 0.99
    crop_min: float = 0.3
    jitter: float = 0.3
    grayscale: float = 0.0
    kernel: Literal["bilinear", "bicubic"] = "bilinear"
    mix: float = 0.0
    keep: Literal["agreement", "loss", "last"] = "agreement"
    held_out_styles: int = 2
    feature_recentre: Literal["off", "mean", "mean_std"] = "off"
    checkpoint_every: int = 100
    channels_last: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse values that cannot be trained with.

        Raises:
            ConfigError: names the setting and its range.
        """
        for name, allowed in _CHOICES.items():
            if getattr(self, name) not in allowed:
                raise ConfigError(
                    f"distillation.{name} is '{getattr(self, name)}'. Choose one of {', '.join(allowed)}."
                )
        for name, (least, most) in _RANGES.items():
            value = getattr(self, name)
            if not least <= value <= most:
                raise ConfigError(f"distillation.{name} is {value}. It must lie between {least:g} and {most:g}.")
        if self.schedule == "epochs" and self.epochs == 0:
            raise ConfigError("distillation.schedule is 'epochs' and distillation.epochs is 0. Set how many there are.")
        if self.epochs and self.minutes:
            raise ConfigError("both distillation.epochs and distillation.minutes are set. Set one of them to 0.")


_CHOICES: dict[str, tuple[str, ...]] = {
    "labels": ("online", "cached"),
    "loss": ("kd", "ce", "ce+kd"),
    "precision": ("fp32", "bf16"),
    "meta": ("none", "first_order", "exact", "reptile"),
    "optimiser": ("adamw", "sgd", "momentum"),
    "schedule": ("steps", "epochs"),
    "kernel": ("bilinear", "bicubic"),
    "freeze": ("backbone", "bn", "none"),
    "keep": ("agreement", "loss", "last"),
    "feature_recentre": ("off", "mean", "mean_std"),
}
_MANY = 10_000_000
_RANGES: dict[str, tuple[float, float]] = {
    "steps": (1, _MANY),
    "epochs": (0, _MANY),
    "kd_weight": (0, _MANY),
    # BatchNorm with live statistics has none to take from a single image.
    "batch": (2, 65_536),
    "minutes": (0, _MANY),
    "accumulate": (1, 65_536),
    "lr": (0, 10),
    "head_lr": (0, 10),
    "weight_decay": (0, 1),
    "warmup_steps": (0, _MANY),
    "head_steps": (0, _MANY),
    "views": (1, 1_000),
    "temperature": (0.01, 100),
    "feature_weight": (0, 1_000),
    "meta_alpha": (0, 100),
    "meta_test_share": (0.01, 0.99),
    "meta_groups": (2, 1_000),
    "ema": (0, 0.99999),
    "crop_min": (0.01, 1),
    "jitter": (0, 1),
    "grayscale": (0, 1),
    "mix": (0, 1),
    "held_out_styles": (0, 1_000),
    "checkpoint_every": (1, _MANY),
}
