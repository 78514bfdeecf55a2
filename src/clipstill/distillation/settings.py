"""Settings of distillation and of learning a teacher's prompts. Light: no tensor library is loaded."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from clipstill.core.config import MANY, Config, SettingPath
from clipstill.core.duration import minutes_of
from clipstill.core.errors import ConfigError

MetaMode = Literal["none", "first_order", "exact", "reptile"]
Kernel = Literal["bilinear", "bicubic"]


class DistilSettings(Config):
    """How the student is taught."""

    steps: int = Field(default=1000, ge=1, le=MANY, description="Optimiser steps of the main phase.")
    minutes: Annotated[float, BeforeValidator(minutes_of)] = Field(
        default=0.0,
        ge=0,
        le=MANY,
        description="Time for teaching, features included, instead of steps: a number of minutes or a text such as "
        "1h30min. The first steps are timed to find how many fit; 0 goes by steps.",
    )
    epochs: int = Field(
        default=0, ge=0, le=MANY, description="Passes over the images instead of steps; 0 goes by steps."
    )
    # BatchNorm with live statistics has none to take from a single image.
    batch: int = Field(default=64, ge=2, le=65_536, description="Images per step, over all processes together.")
    precision: Literal["auto", "fp32", "bf16"] = Field(
        default="auto",
        description="Precision of the student's passes; weights and losses stay in float32. auto is bf16 on GPUs that "
        "are fast in it, and fp32 elsewhere.",
    )
    lr: float = Field(default=1e-4, ge=0, le=10, description="Peak learning rate of the backbone.")
    head_lr: float = Field(
        default=3e-3,
        ge=0,
        le=10,
        description="Peak learning rate of the head, in every phase. Alone, a head that begins with what is known "
        "(student.start) takes steps of a tenth.",
    )
    weight_decay: float = Field(
        default=1e-4, ge=0, le=1, description="Decoupled weight decay. Biases and BatchNorm have none."
    )
    pull: float = Field(
        default=10_000.0,
        ge=0,
        le=MANY,
        description="How many training pictures the start of a head counts for (student.start): the squared change of "
        "its logits has this weight divided by the number of pictures. Not used without a start.",
    )
    optimiser: Literal["adamw", "sgd", "momentum"] = Field(
        default="adamw",
        description="Optimiser. sgd has momentum 0.9 and Nesterov's step, momentum has no such step.",
    )
    schedule: Literal["steps", "epochs"] = Field(
        default="steps",
        description="Learning rate schedule. steps rises over warmup_steps and falls to zero along a cosine; epochs, "
        "which needs epochs, keeps a five-hundredth of the peak for one epoch and then falls by whole epochs, as "
        "PromptKD does (Li et al., CVPR 2024).",
    )
    warmup_steps: int = Field(default=20, ge=0, le=MANY, description="Steps of linear rise at the start of each phase.")
    freeze: Literal["backbone", "bn", "none"] = Field(
        default="backbone",
        description="What is not trained. backbone trains the head alone on cached features; bn trains all weights and "
        "keeps BatchNorm's statistics; none trains everything, for students from scratch. bn after 300 head_steps "
        "gains two points, for a thousand times the time of a step.",
    )
    head_steps: int = Field(
        default=0,
        ge=0,
        le=MANY,
        description="Steps of a first phase that trains the head alone before all weights are trained; 0 leaves it "
        "out. Not used where the backbone is frozen.",
    )
    views: int = Field(
        default=4, ge=1, le=1_000, description="Augmented passes over the images that are cached for the head."
    )
    labels: Literal["online", "cached"] = Field(
        default="online",
        description="Where labels come from while all weights are trained. online asks the teacher about new views at "
        "every step; cached asks it once about the views passes, which are then repeated.",
    )
    loss: Literal["kd", "ce", "ce+kd"] = Field(
        default="kd",
        description="Loss of the student. kd uses the teacher's soft labels, ce the class an image was made for (or "
        "the teacher's answer where it was made for none), ce+kd the sum.",
    )
    temperature: float = Field(default=2.0, ge=0.01, le=100, description="Temperature of the soft labels.")
    kd_weight: float = Field(default=1.0, ge=0, le=MANY, description="Weight of the soft labels' loss.")
    kd_per_class: bool = Field(
        default=False,
        description="Divide that loss by the number of classes, as PromptKD's code does. Its weights of 200 and 1000 "
        "are two and ten for a hundred classes, and twenty and a hundred for ten.",
    )
    meta: MetaMode = Field(
        default="none",
        description="Meta distillation over styles: how the gradient of the outer loss is computed. It needs two "
        "styles or more.",
    )
    ema: float = Field(
        default=0.99,
        ge=0,
        le=0.99999,
        description="Decay of the moving average of the weights, which is validated and kept; 0 keeps the raw weights.",
    )
    crop_min: float = Field(default=0.3, ge=0.01, le=1, description="Least share of the area that a random crop keeps.")
    jitter: float = Field(
        default=0.3,
        ge=0,
        le=1,
        description="Strength of the changes of brightness, contrast and saturation; hue changes by a fifth of it.",
    )
    kernel: Kernel = Field(
        default="bilinear", description="Antialiased resize of the views. CLIP was trained with bicubic."
    )
    keep: Literal["agreement", "loss", "last"] = Field(
        default="loss",
        description="Which weights are the result: those that agree most with the teacher on held-out images, those "
        "with the least loss on them, or the last, as also where fewer than 20 are held out. No label is used.",
    )
    held_out_styles: int = Field(
        default=2,
        ge=0,
        le=1_000,
        description="Styles that are not trained on and choose the best checkpoint. Where there are too few styles, "
        "every tenth image of a class is held out; 0 holds nothing out and keeps the last step.",
    )
    checkpoint_every: int = Field(
        default=100,
        ge=1,
        le=MANY,
        description="Steps between validations. A killed run resumes from the last one.",
    )

    @model_validator(mode="after")
    def _fit_together(self) -> Self:
        if self.schedule == "epochs" and self.epochs == 0:
            raise ConfigError("distillation.schedule is 'epochs' and distillation.epochs is 0. Set how many there are.")
        if self.epochs and self.minutes:
            raise ConfigError("both distillation.epochs and distillation.minutes are set. Set one of them to 0.")
        return self


class PromptTeacherSettings(Config):
    """Prompts that the teacher learns from examples before it teaches (PromptSRC, ICCV 2023)."""

    method: Literal["none", "regularised", "auto"] = Field(
        default="none",
        description="How prompts are learned. regularised is PromptSRC, which needs examples; auto is regularised "
        "where there are examples.",
    )
    weights: SettingPath | None = Field(
        default=None,
        description="Learned prompts to use instead: a run's prompts.safetensors, or a teacher's checkpoint of "
        "PromptSRC or PromptKD, or its folder.",
    )
    count: int = Field(default=4, ge=1, description="Prompt tokens per layer of CLIP's towers. 4 is published.")
    visual_depth: int = Field(
        default=9, ge=0, description="Layers of CLIP's image tower that get prompts; 0 for none. 9 is published."
    )
    text_depth: int = Field(default=9, ge=1, description="Layers of CLIP's text tower with prompts. 9 is published.")
    rank: int = Field(default=64, ge=0, description="Rank of the projection that embedded teachers learn; 0 for none.")
    epochs: int = Field(
        default=20,
        ge=1,
        description="Passes over the examples. PromptSRC has 20 for a ViT-L/14.",
    )
    batch: int = Field(default=8, ge=1, description="Examples per step.")
    lr: float = Field(default=0.005, ge=0, description="Peak learning rate of SGD with momentum 0.9.")
    regularisation: float = Field(
        default=1.0,
        ge=0,
        description="Factor of PromptSRC's three regularising terms, whose weights are 25 (text), 10 (image) and 1 "
        "(logits); 0 leaves them out, as CoOp does.",
    )
    average_mean: float = Field(
        default=15.0,
        ge=0,
        description="Epoch around which weights are averaged by a Gaussian; 0 keeps the last epoch's.",
    )
    average_std: float = Field(default=1.0, gt=0, description="Standard deviation of that Gaussian, in epochs.")
    views: int = Field(
        default=4, ge=1, description="Passes of crops that embedded teachers encode once and then repeat."
    )
    text_chunk: int = Field(
        default=0,
        ge=0,
        description="Classes whose texts are in memory at once; 0 for all. 100 helps where a thousand classes do not "
        "fit into memory.",
    )


class ReadingSettings(Config):
    """How photos are read to learn from them. This changes time and memory and no result."""

    workers: int | None = Field(
        default=None,
        ge=0,
        le=256,
        description="Processes that read photos ahead, on Linux; null takes one less than threads, at most 8, and 0 "
        "reads photos when they are needed.",
    )
    cache_mb: int = Field(
        default=1000,
        ge=0,
        le=MANY,
        description="Megabytes of decoded photos that stay in memory, over all these processes.",
    )
