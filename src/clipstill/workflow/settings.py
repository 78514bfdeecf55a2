"""All settings of a run, put together from the parts' own models."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from clipstill.core.config import SPEED_ONLY, Config, SettingPath
from clipstill.core.errors import ConfigError
from clipstill.core.packaged_weights import TOWERS
from clipstill.distillation.settings import DistilSettings, PromptTeacherSettings, ReadingSettings
from clipstill.distributed.settings import LaunchSettings
from clipstill.evaluation.settings import EvaluationSettings, RefusalSettings
from clipstill.export.settings import ExportSettings
from clipstill.generators.settings import GeneratorSettings
from clipstill.students.settings import StudentSettings
from clipstill.surrogate.settings import CurationSettings
from clipstill.synthesis.settings import SynthesisSettings
from clipstill.teachers.settings import TeacherSettings
from clipstill.text.settings import PromptSettings


class ExamplesSettings(Config):
    """Example images of some or all classes. One to five per class help a lot."""

    images: SettingPath | None = Field(
        default=None, description="Folder with one sub-folder per class. Classes without one fall back to their text."
    )
    per_class: int | None = Field(default=None, ge=1, description="Most examples used per class; null for all.")
    text_count: float = Field(
        default=2.0,
        ge=0,
        description="Number of examples that a class's text counts for in its class vector; 0 is the prototype alone. "
        "Of 0 to 8, two is best for PACS and Caltech-101 together. It counts less where every class has examples and "
        "the texts name less than half of them right.",
    )
    whitening: float = Field(
        default=3.0,
        ge=0,
        le=1000,
        description="How little directions count in which examples of one class differ; 0 is plain means. Used where "
        "every class has examples and some have two.",
    )
    style_share: float = Field(
        default=0.5,
        ge=0,
        le=1,
        description="How far a prompt's style moves the prototype that its image is drawn towards.",
    )
    teach_share: float = Field(
        default=0.3, ge=0, le=0.9, description="Share of the student's training data that is the examples themselves."
    )


class UnlabelledSettings(Config):
    """Photos of the domain without labels (Li et al., PromptKD, CVPR 2024)."""

    images: SettingPath | None = Field(
        default=None, description="Folder of photos. Sub-folders are searched, and their names are not used."
    )
    limit: int | None = Field(
        default=None, ge=1, description="Most photos that are used, drawn by the seed; null for all."
    )
    adapt: bool = Field(
        default=True,
        description="Move the class vectors towards what the photos show of each class before they teach. Photos that "
        "show few of the classes, or other things, move them little.",
    )


class Settings(Config):
    """Everything that a run depends on, besides its class names."""

    seed: int = Field(default=0, ge=0, description="Seed of everything random. Equal seeds give equal bits on the CPU.")
    device: str = Field(
        default="auto",
        json_schema_extra=SPEED_ONLY,
        description="auto, cpu, cuda, cuda:1 or mps. auto takes CUDA, then MPS, then the CPU.",
    )
    deterministic: bool = Field(
        default=False,
        json_schema_extra=SPEED_ONLY,
        description="Whether GPUs take deterministic algorithms, full float32 and no compiled steps: slower, and the "
        "same images and weights in every run on one machine. The CPU always gives equal bits.",
    )
    threads: int = Field(
        default=0,
        ge=0,
        le=1024,
        json_schema_extra=SPEED_ONLY,
        description="CPU threads; 0 takes all cores. Sums depend on it, so a run keeps the number it began with.",
    )
    allow_unmatched: bool = Field(
        default=False,
        json_schema_extra=SPEED_ONLY,
        description="Go on where a class has no photo and a folder nearly has its name, such as cats for cat, which is "
        "then left out. Otherwise that is refused.",
    )
    log: Literal["none", "tensorboard", "wandb"] = Field(
        default="none",
        json_schema_extra=SPEED_ONLY,
        description="Where losses, pictures and figures of a run are written too: tensorboard, into the run folder, or "
        "wandb, to Weights & Biases. Each needs the extra of its name.",
    )
    teacher: TeacherSettings = TeacherSettings()
    examples: ExamplesSettings = ExamplesSettings()
    unlabelled: UnlabelledSettings = UnlabelledSettings()
    prompt_teacher: PromptTeacherSettings = PromptTeacherSettings()
    prompts: PromptSettings = PromptSettings()
    generator: GeneratorSettings = GeneratorSettings()
    synthesis: SynthesisSettings = SynthesisSettings()
    launch: LaunchSettings = Field(default=LaunchSettings(), json_schema_extra=SPEED_ONLY)
    reading: ReadingSettings = Field(default=ReadingSettings(), json_schema_extra=SPEED_ONLY)
    curation: CurationSettings = CurationSettings()
    refusal: RefusalSettings = RefusalSettings()
    student: StudentSettings = StudentSettings()
    distillation: DistilSettings = DistilSettings()
    evaluation: EvaluationSettings = EvaluationSettings()
    export: ExportSettings = ExportSettings()

    def section_values(self, name: str) -> Any:
        """What results depend on in a section or a setting (``examples.style_share``), as JSON values."""
        value: Any = self.identity()
        for key in name.split("."):
            value = value[key]
        return value

    def check_together(self) -> None:
        """Refuse sections that do not fit each other; while settings are put together, they need not fit yet.

        Raises:
            ConfigError: Nothing is there to teach by, or something needs what is not there.
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
        if self.distillation.meta != "none" and (self.prompts.strategy == "plain" or self.prompts.images_per_class < 2):
            raise ConfigError(
                "distillation.meta needs pictures of two styles or more, and these prompts give one. Choose a "
                "prompts.strategy with styles and two images a class, or set distillation.meta=none."
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
    def begins_with_teacher(self) -> bool:
        """Whether the student begins with a head that an embedded teacher makes of the class names alone."""
        section, unseen = self.student, self.examples.images is None and not self.has_prompts
        wanted = (section.start, section.init, section.head) == ("names", "pretrained", "linear")
        return unseen and wanted and section.name in TOWERS.get(self.teacher.name, ())

    @property
    def has_prompts(self) -> bool:
        """Whether the teacher has prompts: learned from the examples, or given."""
        section = self.prompt_teacher
        return section.weights is not None or (section.method != "none" and self.examples.images is not None)
