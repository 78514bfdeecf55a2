"""All settings of a run. Their values stand in ``recipes/default.yaml``, each with its reason; here is what they mean.

The sections ``synthesis`` and ``distillation`` carry the fields of ``SynthesisSettings`` and ``DistilSettings``, so
that ``--set synthesis.steps=40`` says the same as the Python constructor.
"""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import BeforeValidator, Field, field_validator, model_validator

from clipstill.core.config import Config
from clipstill.core.duration import minutes_of
from clipstill.core.errors import ConfigError
from clipstill.distillation.prompt_settings import PromptTuningSettings
from clipstill.distillation.settings import DistilSettings
from clipstill.synthesis.settings import SynthesisSettings
from clipstill.text.settings import PromptSettings

if TYPE_CHECKING:
    from clipstill.export.measure import Limits

_TOWER = "tower:"


class TeacherSection(Config):
    """Which teacher.

    Attributes:
        name: see ``clipstill list teachers``.
        precision: of its image tower; features are float32 in any case.
    """

    name: str
    precision: Literal["fp32", "bf16", "fp16"]


class ExamplesSection(Config):
    """Example images of the classes, where there are any: image-based customisation.

    Attributes:
        images: a folder with one sub-folder a class; classes without one fall back to their text.
        per_class: most examples a class that are used; null for all.
        text_count: how many examples a class's text counts for in its class vector; 0 is the prototype alone.
        style_share: how far a prompt's style moves the prototype that its image is drawn towards, in [0, 1].
        teach_share: of what the student is taught on, how much is the examples themselves, in [0, 0.9].
    """

    images: Path | None
    per_class: int | None = Field(ge=1)
    text_count: float = Field(ge=0)
    style_share: float = Field(ge=0, le=1)
    teach_share: float = Field(ge=0, le=0.9)


class UnlabelledSection(Config):
    """Photos of the domain without labels, where there are any.

    Attributes:
        images: a folder; sub-folders are walked through, and their names say nothing.
        limit: most photos that are used, drawn by the seed; null for all.
    """

    images: Path | None
    limit: int | None = Field(ge=1)


class PromptTeacherSection(Config):
    """Prompts that the teacher learns from examples before it teaches; ``clipstill.distillation.prompt_tuning``.

    Attributes:
        method: ``none``, ``regularised`` (PromptSRC, which needs examples), or ``auto``: regularised where there are
            examples.
        weights: prompts that were learned before, instead of learning: a run's ``prompts.safetensors``, or a checkpoint
            of PromptSRC or PromptKD.
        count: prompt tokens a layer, of CLIP's towers.
        visual_depth: layers of CLIP's image tower that get prompts; 0 for none.
        text_depth: layers of CLIP's text tower that get prompts.
        words: what the text prompts start as; ``auto`` for "a photo of a" with CLIP and "a" with embedded teachers.
        rank: of an embedded teacher's projection; 0 for none.
    """

    method: Literal["none", "regularised", "auto"]
    weights: Path | None
    count: int = Field(ge=1)
    visual_depth: int = Field(ge=0)
    text_depth: int = Field(ge=1)
    words: str
    rank: int = Field(ge=0)
    epochs: int
    batch: int
    lr: float
    warmup_lr: float
    weight_decay: float
    text_weight: float
    image_weight: float
    logit_weight: float
    average_mean: float
    average_std: float
    crop_min: float
    views: int
    text_chunk: int

    @model_validator(mode="after")
    def _in_range(self) -> Self:
        """Ask the part itself, which knows the ranges, before any work starts."""
        self.settings(seed=0)
        return self

    def settings(self, seed: int) -> PromptTuningSettings:
        """The same for the part."""
        own = {each.name: getattr(self, each.name) for each in fields(PromptTuningSettings) if each.name != "seed"}
        return PromptTuningSettings(**own, seed=seed)


class PromptsSection(Config):
    """Which images are made; the other fields and their ranges: ``clipstill.text.settings.PromptSettings``.

    Attributes:
        strategy: see ``clipstill list prompts``.
        styles: ``default`` for the built-in sixteen, a text file, or a list of words.
        templates: sentences around a class name, whose mean is its class vector: ``auto`` for the set that suits the
            teacher, the name of a set (``plain``, ``name``, or a data set's such as ``oxford_pets``), or a list.
        images_per_class: synthetic images a class; 0 where unlabelled photos stand for all of them.
        bank: soft tokens that an earlier run learned, a ``bank.safetensors`` or its folder, instead of learning them;
            their number is the bank's.
    """

    strategy: str
    styles: str | list[str]
    templates: str | list[str]
    images_per_class: int = Field(ge=0)
    bank: Path | None
    template: str
    mix_styles: int
    mix_concentration: float
    pseudo_styles: int
    tokens: int
    sigma: float | Literal["auto"]
    steps: int
    lr: float
    temperature: float
    noise: float
    dropout: float
    content_weight: float
    content_temperature: float
    order: Literal["joint", "sequential"]

    @model_validator(mode="after")
    def _in_range(self) -> Self:
        """Ask the part itself, which knows the ranges, before any work starts."""
        self.settings()
        return self

    def settings(self) -> PromptSettings:
        """The same for the part."""
        return PromptSettings(**{each.name: getattr(self, each.name) for each in fields(PromptSettings)})


class GeneratorSection(Config):
    """Which generator.

    Attributes:
        name: see ``clipstill list generators``.
    """

    name: str


class SynthesisSection(Config):
    """How the teacher is inverted; fields and ranges: ``clipstill.synthesis.settings.SynthesisSettings``."""

    steps: int
    lr: float
    views: int
    image_size: int
    coarse_share: float
    group_size: int
    slots: int
    settle_margin: float
    settle_patience: int
    precision: Literal["fp32", "bf16"]
    compile: bool
    text_weight: float
    class_weight: float
    bn_weight: float
    natural_weight: float
    natural_networks: tuple[str, ...]
    tv_weight: float
    prior_weight: float
    crop_min: float
    degrees: float
    light: float
    noise: float

    @model_validator(mode="after")
    def _in_range(self) -> Self:
        """Ask the part itself, which knows the ranges, before any work starts."""
        self.settings()
        return self

    def settings(self) -> SynthesisSettings:
        """The same for the part."""
        return SynthesisSettings(**self.model_dump())


class LaunchSection(Config):
    """Where synthetic images are made. It changes how long that takes, and no image.

    Under ``torchrun`` each rank makes its share by itself, whatever stands here.

    Attributes:
        launcher: ``local`` for this process, ``ray`` for tasks on a Ray cluster.
        address: of the cluster: ``ray://HOST:PORT`` from outside, ``HOST:PORT`` or ``auto`` on one of its machines;
            null takes ``RAY_ADDRESS`` where that is set, and else starts a cluster here that ends with the synthesis.
        workers: most tasks at once; 0 takes as many as the cluster holds. A task takes as many CPUs as the run has
            ``threads``, or a GPU.
        retries: how often a group is begun again whose worker was lost.
        storage: an address that fsspec knows, where tasks leave what they made, and from where the next call gathers it
            where this one is lost; null sends it back through Ray.
    """

    launcher: Literal["local", "ray"]
    address: str | None
    workers: int = Field(ge=0)
    retries: int = Field(ge=0)
    storage: str | None


class CurationSection(Config):
    """Which synthetic images teach.

    Attributes:
        min_score: share of the median score of its class that an image must reach; 0 keeps all.
        duplicate_cosine: from this cosine of the teacher's vectors on, seen from the middle of the set, two images of
            a class are nearly the same, and only the better one teaches; 1 keeps all.
        least_diversity: share of the median class's effective number of images below which a class gets further images
            in styles that it has not been asked for; 0 for none.
        top_up: further images of such a class.
    """

    min_score: float = Field(ge=0, le=1)
    duplicate_cosine: float = Field(gt=0, le=1)
    least_diversity: float = Field(ge=0, le=1)
    top_up: int = Field(ge=1)


class RefusalSection(Config):
    """When the student says "none of these".

    Attributes:
        near_misses: things that the classes are easily taken for, which set the threshold: ``auto`` for words that lie
            near the classes, about as many as there are classes; another number of them; a list of names; 0 for a
            student that always answers.
        images: synthetic images of each.
        most_refused: share of the synthetic images of the classes that the threshold may refuse, in [0, 1].
    """

    near_misses: Literal["auto"] | int | list[str]
    images: int = Field(ge=1)
    most_refused: float = Field(ge=0, le=1)

    @field_validator("near_misses")
    @classmethod
    def _not_negative(cls, value: str | int | list[str]) -> str | int | list[str]:
        if isinstance(value, int) and value < 0:
            raise ConfigError(f"refusal.near_misses is {value}. Give auto, a number of at least 0, or names.")
        return value

    @property
    def wanted(self) -> bool:
        """Whether there are any near misses."""
        return self.near_misses not in (0, [])


class StudentSection(Config):
    """Which student.

    Attributes:
        name: see ``clipstill list students``; or ``tower:`` and a teacher's name, for its image tower.
        init: ``pretrained``, ``scratch`` or a checkpoint file.
        head: ``linear``, or ``class-vectors``: a projector into the teacher's space and the class vectors as they are,
            so that a class can be added after training.
        projector_layers: of the head of class vectors.
        projector_width: between its layers; 0 for as many dimensions as the teacher has.
        prompts: learned tokens in each of the first layers of CLIP's image tower, or the width in pixels of a learned
            frame around what any other network sees, which then is frozen as a tower is; 0 for none.
        prompt_depth: layers of CLIP's tower that get prompts.
        tower: ``frozen``, or ``trained``: all weights of a tower, or behind a frame, for comparison.
        image_size: side of its input in pixels.
    """

    name: str
    init: str
    head: Literal["linear", "class-vectors"]
    projector_layers: int = Field(ge=1, le=3)
    projector_width: int = Field(ge=0)
    prompts: int = Field(ge=0)
    prompt_depth: int = Field(ge=1)
    tower: Literal["frozen", "trained"]
    image_size: int = Field(ge=32, le=1024)

    @property
    def tower_of(self) -> str | None:
        """The teacher whose image tower it is; None for a network of its own."""
        return self.name.removeprefix(_TOWER) if self.name.startswith(_TOWER) else None


class DistillationSection(Config):
    """How the student is taught; fields and ranges are those of ``clipstill.distillation.settings.DistilSettings``.

    Attributes:
        minutes: a number, or a text such as ``10min`` or ``1h30min``.
    """

    steps: int
    minutes: Annotated[float, BeforeValidator(minutes_of)]
    epochs: int
    batch: int
    accumulate: int
    precision: Literal["fp32", "bf16"]
    lr: float
    head_lr: float
    weight_decay: float
    optimiser: Literal["adamw", "sgd", "momentum"]
    schedule: Literal["steps", "epochs"]
    warmup_steps: int
    freeze: Literal["backbone", "bn", "none"]
    head_steps: int
    views: int
    labels: Literal["online", "cached"]
    loss: Literal["kd", "ce", "ce+kd"]
    temperature: float
    kd_weight: float
    kd_per_class: bool
    feature_weight: float
    meta: Literal["none", "first_order", "exact", "reptile"]
    meta_alpha: float
    meta_test_share: float
    meta_groups: int
    ema: float
    crop_min: float
    jitter: float
    grayscale: float
    kernel: Literal["bilinear", "bicubic"]
    mix: float
    keep: Literal["agreement", "loss", "last"]
    held_out_styles: int
    feature_recentre: Literal["off", "mean", "mean_std"]
    checkpoint_every: int
    channels_last: bool

    @model_validator(mode="after")
    def _in_range(self) -> Self:
        """Ask the part itself, which knows the ranges, before any work starts."""
        self.settings(seed=0)
        return self

    def settings(self, seed: int) -> DistilSettings:
        """The same for the part."""
        return DistilSettings(**self.model_dump(), seed=seed)


class GrowthSection(Config):
    """What is done again in a run folder whose classes or examples change.

    Attributes:
        redraw: a class that has other examples than its images were drawn towards is drawn anew; false keeps the
            images, and examples move class vectors and teach alone.
        by_vector: a student with a head of class vectors gets those of the present classes and is not taught again, and
            no image is made; false draws and teaches as for any other student.
    """

    redraw: bool
    by_vector: bool


class EvaluationSection(Config):
    """On what the student is measured.

    Attributes:
        images: a folder of real photos with one sub-folder a class; nothing is measured where it is null.
        batch: photos at once.
        ladder: measure simpler and richer ways to the same classifier too, see ``clipstill.evaluation.ladder``.
        small_teacher: the teacher of the rung without training: ``auto`` for ``embedded-s`` beside embedded teachers,
            and for the teacher itself beside others; or a name.
    """

    images: Path | None
    batch: int = Field(ge=1)
    ladder: bool
    small_teacher: str


class ExportSection(Config):
    """In which formats the model is let out, what is checked before, and what goes with it.

    Attributes:
        formats: beside ``model.onnx``, which is always there.
        tolerance: largest difference of a logit between a format in float32 and the student.
        int8_warn: share of the answers that int8 (and fp16) may change without a warning.
        int8_refuse: share above which there is no such file.
        page: whether the bundle holds a page that runs the model in a browser.
    """

    formats: tuple[str, ...]
    tolerance: float = Field(gt=0)
    int8_warn: float = Field(ge=0, le=1)
    int8_refuse: float = Field(ge=0, le=1)
    page: bool

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.int8_warn > self.int8_refuse:
            raise ValueError("int8_warn is above int8_refuse, so nothing would ever be warned of; lower it")
        return self

    def limits(self) -> Limits:
        """The same for the part."""
        from clipstill.export.measure import Limits

        return Limits(self.tolerance, self.int8_warn, self.int8_refuse)


class RunConfig(Config):
    """Everything that a run depends on, besides its class names.

    Attributes:
        seed: of everything random; equal seeds give equal bits on the CPU.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:1`` or ``mps``.
        threads: CPU threads; 0 takes all cores. Sums depend on it, so a run keeps the number it began with.
    """

    seed: int = Field(ge=0)
    device: str
    threads: int = Field(ge=0, le=1024)
    teacher: TeacherSection
    examples: ExamplesSection
    unlabelled: UnlabelledSection
    prompt_teacher: PromptTeacherSection
    prompts: PromptsSection
    generator: GeneratorSection
    synthesis: SynthesisSection
    launch: LaunchSection
    curation: CurationSection
    refusal: RefusalSection
    student: StudentSection
    distillation: DistillationSection
    growth: GrowthSection
    evaluation: EvaluationSection
    export: ExportSection

    def check_together(self) -> None:
        """Look for sections that do not fit each other; while settings are put together, they need not yet.

        Raises:
            ConfigError: nothing is there to teach by, or something is asked of what is not there.
        """
        if self.prompts.images_per_class == 0:
            if self.unlabelled.images is None:
                raise ConfigError(
                    "prompts.images_per_class is 0 and there are no unlabelled photos, so nothing is left to teach by. "
                    "Give photos (--unlabelled DIR), or ask for images."
                )
            if self.refusal.wanted:
                raise ConfigError(
                    "refusal.near_misses needs synthetic images, and prompts.images_per_class is 0. Set one of them "
                    "otherwise."
                )
        missing = self.examples.images is None and self.prompt_teacher.weights is None
        if self.prompt_teacher.method == "regularised" and missing:
            raise ConfigError(
                "prompt_teacher.method is regularised, which learns from labelled examples, and there are none. Give "
                "some (--examples DIR), or set it to none."
            )

    @property
    def small_teacher(self) -> str:
        """The teacher of the ladder's rung without training."""
        named = self.evaluation.small_teacher
        if named != "auto":
            return named
        return "embedded-s" if self.teacher.name.startswith("embedded") else self.teacher.name

    @property
    def has_prompts(self) -> bool:
        """Whether the teacher has prompts: learned from the examples, or given."""
        section = self.prompt_teacher
        return section.weights is not None or (section.method != "none" and self.examples.images is not None)
