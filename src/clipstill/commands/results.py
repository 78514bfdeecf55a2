"""What the verbs return: typed, as JSON values by ``to_json``, and as a table in a notebook."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from PIL import Image

from clipstill.core.foresight import Foresight
from clipstill.core.names import plain
from clipstill.core.notebook import html_table
from clipstill.core.progress import percent, span
from clipstill.core.verdict import Advice
from clipstill.evaluation.evaluate import Evaluation
from clipstill.evaluation.ladder import Ladder
from clipstill.report.data import picture_uri
from clipstill.runtime import Bundle, load_bundle
from clipstill.stages.images import PREVIEW_FILE

if TYPE_CHECKING:
    from clipstill.assembly.zero_shot import ZeroShot


@dataclass(frozen=True)
class Calibration:
    """What the student's scores are worth, found without a test set.

    Attributes:
        foresight: Expected share of right answers on photos of the classes, with its 80 % interval.
        temperature: Divisor of the logits.
        refusal_threshold: Score below which "none of these" is said; None where the student always answers.
    """

    foresight: Foresight
    temperature: float
    refusal_threshold: float | None
    details: Mapping[str, object]

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """The calibration that a run stored."""
        refusal = value["refusal"]
        threshold = None if refusal is None else float(refusal["threshold"])
        return cls(Foresight.from_json(value["foresight"]), float(value["temperature"]), threshold, dict(value))

    def _repr_html_(self) -> str:
        return html_table(
            {
                "expected top-1": self.foresight.text(),
                "temperature": f"{self.temperature:.3g}",
                'says "none of these"': f"below {self.refusal_threshold:.3g}" if self.refusal_threshold else "never",
            }
        )


@dataclass(frozen=True)
class QuickResult:
    """What ``clipstill run --quick`` leaves behind: a run folder with the small teacher's bundle.

    Attributes:
        bundle: What is known of that bundle.
        foresight: Share of its photos that it is expected to name right, by the names alone.
        student: Name of the student that the full run would add.
    """

    out: Path
    bundle: ZeroShot
    foresight: Foresight
    student: str

    @property
    def advice(self) -> Advice:
        """The verdict on the bundle, and what to do next."""
        return self.bundle.advice(self.foresight, self.out)

    @property
    def full_run(self) -> str:
        """What the full run would add."""
        return (
            f"the same command without --quick keeps this and adds the student {self.student}, which takes minutes: "
            'smaller by default, says "none of these", and can be tuned on photos'
        )

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        names = {"foresight": self.foresight.to_json(), **asdict(self.advice), "full_run": self.full_run}
        return {**self.bundle.to_json(), "out": plain(self.out), "bundle": plain(self.bundle.out), **names}

    def facts(self) -> dict[str, str | None]:
        """What people want to know, by name; None where it is not known."""
        advice = self.advice
        return {
            **self.bundle.facts(),
            "verdict": advice.text,
            **advice.facts(str(self.out)),
            "a full run": self.full_run,
        }

    def _repr_html_(self) -> str:
        return html_table(self.facts())


@dataclass(frozen=True)
class RunResult:
    """What a run leaves behind.

    Attributes:
        evaluation: Teacher and student on real photos; None where no photos were given.
        ladder: Simpler and richer ways to the same classifier; None where they were not measured.
        calibration: What is known of the scores without a photo.
        advice: Verdict on the student, and the next steps.
        which_to_ship: The student or the small teacher without training, and why.
        zero_shot_folder: Bundle of the small teacher; None where the run has none.
        latency_ms: Median time for one picture on one core.
        licence: Family of the most restrictive licence found.
        licence_warning: What that licence asks, where it forbids products or nothing is known; else None.
        seconds: Seconds of work of each stage, those of earlier calls included.
        skipped: Stages that were done already.
        up_to_date: Whether all were.
    """

    out: Path
    bundle_folder: Path
    report: Path
    classes: tuple[str, ...]
    evaluation: Evaluation | None
    ladder: Ladder | None
    calibration: Calibration
    advice: Advice
    which_to_ship: str
    zero_shot_folder: Path | None
    parameters: int
    onnx_bytes: int
    latency_ms: float
    licence: str
    licence_warning: str | None
    seconds: dict[str, float] = field(default_factory=dict)
    skipped: tuple[str, ...] = ()
    up_to_date: bool = False

    @cached_property
    def bundle(self) -> Bundle:
        """The exported bundle, opened: ``result.bundle.predict("photo.jpg")``."""
        return load_bundle(self.bundle_folder)

    def to_json(self) -> dict[str, Any]:
        """JSON values, with the main figures of the evaluation at the top."""
        measured = {} if self.evaluation is None else self.evaluation.to_json()
        main_names = ("n", "right_and_answered", "teacher_top1", "student_top1", "chance")
        main = {name: measured.get(name) for name in main_names}
        names = ("parameters", "onnx_bytes", "latency_ms", "licence", "licence_warning", "seconds", "up_to_date")
        return {
            "out": plain(self.out),
            "bundle": plain(self.bundle_folder),
            "report": plain(self.report),
            "classes": list(self.classes),
            **main,
            **asdict(self.advice),
            "which_to_ship": self.which_to_ship,
            "zero_shot": self.zero_shot_folder and plain(self.zero_shot_folder),
            "ladder": None if self.ladder is None else self.ladder.to_json(),
            "calibration": dict(self.calibration.details),
            **{name: getattr(self, name) for name in names},
            "skipped": list(self.skipped),
        }

    def facts(self) -> dict[str, str | None]:
        """What people want to know, by name; None where it is not known."""
        names, measured = ", ".join(self.classes), None
        others = None if self.ladder is None else self.ladder.recommendation.more or None
        if self.evaluation is not None:
            student, teacher = self.evaluation.student, self.evaluation.teacher
            by_teacher = "" if teacher is None else f", its teacher {percent(teacher.top1)}"
            chance = f"chance {percent(self.evaluation.chance)}"
            measured = f"{percent(student.top1)} right{by_teacher}, {chance}, by {self.evaluation.photos}"
        licences = self.bundle_folder / "LICENCES.md"
        return {
            "classes": f"{len(self.classes)}: {names if len(names) <= 80 else names[:77] + '...'}",
            "verdict": self.advice.text,
            "with none refused": measured,
            "which to ship": self.which_to_ship,
            "other ways": others,
            "size": f"{self.onnx_bytes / 1e6:.1f} MB, {self.parameters / 1e6:.1f} million parameters",
            "latency": f"{self.latency_ms:.1f} ms a picture on one core",
            "time": "nothing to do, all was there" if self.up_to_date else span(sum(self.seconds.values())),
            "licences": f"{self.licence} is the most restrictive; all of them: {licences}",
            "bundle": str(self.bundle_folder),
            "report": str(self.report),
            **self.advice.facts(str(self.out)),
        }

    def _repr_html_(self) -> str:
        preview = self.out / PREVIEW_FILE
        if not preview.is_file():
            return html_table(self.facts())
        with Image.open(preview) as sheet:
            uri = picture_uri(np.asarray(sheet), side=480)
        return f'{html_table(self.facts())}<img alt="synthetic images" src="{uri}">'
