"""The types of what the files of a run folder hold, as far as something reads it again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, NotRequired

from pydantic import ConfigDict, Field, with_config
from typing_extensions import TypedDict

from clipstill.core.errors import ArtifactError
from clipstill.core.files import parse_json
from clipstill.core.protocols import Provenance
from clipstill.core.records import Count, Number, Share, checked

EVENTS = "events.jsonl"
# A run of many starts has a few thousand lines. The last ones say how it stands.
_MOST_EVENT_BYTES = 4 << 20
# Facts beside those that are named here stay as they are.
_OPEN = with_config(ConfigDict(extra="allow"))
# A part of it names a folder.
Key = Annotated[str, Field(pattern=r"^[\w-]{1,128}$")]


class RunMarker(TypedDict):
    """``run.json``: what the folder is."""

    format: str
    version: int
    threads: Annotated[int, Field(ge=1, le=1024)]


@_OPEN
class Event(TypedDict):
    """One line of ``events.jsonl``."""

    time: Number
    event: str
    stage: NotRequired[str]
    key: NotRequired[str]
    seconds: NotRequired[Annotated[Number, Field(ge=0)]]
    keys: NotRequired[Annotated[dict[str, str], Field(max_length=10_000)]]  # Name of each step of a start -> its key.


class StoredTask(TypedDict):
    """The classes of a ``Task``."""

    names: Annotated[list[str], Field(max_length=1_000_000)]
    descriptions: list[str]


class StoredEvidence(TypedDict):
    """An ``Evidence``."""

    learned: str | None
    examples: str | None
    by_class: dict[str, str]


class StageRecord(TypedDict):
    """``stage.json``: the work that the folder of a stage holds."""

    stage: str
    key: Key
    number: Annotated[Count, Field(ge=1)]
    task: StoredTask
    drawn: list[str]
    evidence: StoredEvidence
    serial: Count  # Time of its beginning in nanoseconds; it orders the cohorts.
    images: NotRequired[Any]  # Of a student: what it was trained on.
    trained: NotRequired[bool]  # Of a student: whether it was trained, and did not only get class vectors.


class StepEntry(TypedDict):
    """A step in ``steps.json``."""

    name: Annotated[str, Field(pattern=r"^[\w-]{1,128}$")]
    stage: str
    key: str
    used: list[str] | None


@_OPEN
class StoredFinding(TypedDict):
    """A finding of a plan."""

    level: str
    kind: str
    classes: list[str]


@_OPEN
class StoredPlan(TypedDict):
    """What is read again of ``plan.json``."""

    findings: list[StoredFinding]
    expected_per_class: dict[str, Share]


class StoredAdvice(TypedDict):
    """``advice.json``: the verdict on a run, and what to do next."""

    verdict: str
    text: str
    steps: dict[str, str]
    which_to_ship: str


@_OPEN
class StoredClassAccuracy(TypedDict):
    """The accuracy of each class in an ``EvaluationResult``; None where no photo shows it."""

    classes: NotRequired[list[str]]
    per_class: NotRequired[list[Share | None]]


@_OPEN
class StoredAccuracy(TypedDict):
    """The main figures of an ``Evaluation``."""

    n: Count
    student_top1: Share
    right_and_answered: Share
    teacher_top1: NotRequired[Share | None]
    student: NotRequired[StoredClassAccuracy]


@_OPEN
class StoredExport(TypedDict):
    """What the export of a bundle measured."""

    onnx_bytes: Count
    parameters: Count
    latency_ms: Number


class StoredMetrics(TypedDict):
    """``metrics.json`` of a bundle."""

    evaluation: StoredAccuracy | None
    export: StoredExport
    provenance: list[Provenance]


class StoredLabels(TypedDict):
    """``labels.json`` of a bundle."""

    labels: list[str]
    refusal_threshold: Share | None


class BundleInfo(TypedDict):
    """Facts in the manifest of a bundle."""

    teacher: str
    student: str


class ZeroShotInfo(TypedDict):
    """Facts in the manifest of a teacher's bundle."""

    teacher: str
    examples: Count
    unlabelled: Count
    adaptation: str | None
    foresight: StoredForesight


@_OPEN
class StoredRefusal(TypedDict):
    """How a student says "none of these"."""

    threshold: Share


class StoredEstimate(TypedDict):
    """An ``Estimate``."""

    share: Share
    low: Share
    high: Share


class StoredForesight(TypedDict):
    """A ``Foresight``."""

    basis: str
    photos: StoredEstimate | None
    drawings: StoredEstimate | None
    reason: str


@_OPEN
class StoredCalibration(TypedDict):
    """``calibration.json``."""

    foresight: StoredForesight
    temperature: Annotated[Number, Field(gt=0)]
    refusal: StoredRefusal | None


@_OPEN
class StoredClass(TypedDict):
    """What became of the images of a class."""

    name: str
    made: Count


class StoredCuration(TypedDict):
    """``curation.json`` beside the images."""

    classes: list[StoredClass]


def read_events(run: Path) -> list[Event]:
    """The events of a run, oldest first; lines that are damaged or cut short by a kill are left out."""
    file = run / EVENTS
    if not file.is_file():
        return []
    with file.open("rb") as stream:
        stream.seek(max(0, file.stat().st_size - _MOST_EVENT_BYTES))
        lines = stream.read(_MOST_EVENT_BYTES).splitlines()
    return [event for line in lines if (event := _event(line)) is not None]


def _event(line: bytes) -> Event | None:
    try:
        return checked(parse_json(line), Event, EVENTS)
    except (ValueError, ArtifactError):
        return None
