"""What a report tells, as plain values: written to JSON by the pipeline, rendered from it at any later time."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from clipstill.core.errors import ArtifactError
from clipstill.core.protocols import Provenance

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class Picture:
    """One synthetic image.

    Attributes:
        class_name: what it shows.
        style: the style it was asked for; empty where there is none.
        uri: the image as a ``data:`` URI; ``picture_uri`` makes it.
        score: the teacher's probability of its class, in [0, 1].
        prompt: the text it was made from.
    """

    class_name: str
    style: str
    uri: str
    score: float
    prompt: str = ""


@dataclass(frozen=True)
class Curated:
    """The synthetic images of one class.

    Attributes:
        class_name: what they show.
        made: how many there are.
        not_made: how many the synthesis gave up.
        topped_up: how many of those made are in further styles, because the others looked too much alike.
        kept: how many taught the student.
        low_score: left out because the teacher liked them too little.
        duplicates: left out because a better one looks the same.
        duplicate_pairs: pairs that look the same.
        mean_score: of the teacher, in [0, 1]; None where no image was made.
        effective_number: how many entirely different images would be as diverse.
        effective_number_before: the same without the images in further styles; None where there are none.
    """

    class_name: str
    made: int
    not_made: int
    topped_up: int
    kept: int
    low_score: int
    duplicates: int
    duplicate_pairs: int
    mean_score: float | None
    effective_number: float
    effective_number_before: float | None = None


@dataclass(frozen=True)
class Series:
    """One line of a chart: (x, y) points, x ascending."""

    name: str
    points: tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Chart:
    """A line chart.

    Attributes:
        title: what it shows.
        x: name of the horizontal axis.
        series: its lines, at most six.
        percent: y is a share in [0, 1] and is written as per cent.
    """

    title: str
    x: str
    series: tuple[Series, ...]
    percent: bool = False


@dataclass(frozen=True)
class Stage:
    """One stage of the run.

    Attributes:
        name: of the stage.
        seconds: it took; for a reused stage what it took when it ran.
        reused: it was complete already and did not run again.
        detail: what came out, in a few words.
    """

    name: str
    seconds: float
    reused: bool = False
    detail: str = ""


@dataclass(frozen=True)
class ReportData:
    """Everything that the report shows; what is absent is left out of the page.

    Attributes:
        labels: class names.
        teacher: the teacher's name.
        student: the student's name.
        teacher_bytes: size of the teacher's image tower; None where unknown.
        student_bytes: size of the exported model.
        teacher_parameters: numbers in the teacher's image tower; None where unknown.
        student_parameters: numbers in the student.
        latency_ms: of the exported model, one picture on one core.
        parity: ``Parity.to_json()`` of the export.
        evaluation: ``evaluation.compare``'s result; None where no photos were given.
        calibration: what is known of the scores without a photo; None where nothing is.
        examples: example images that were given beside the class names.
        unlabelled: photos without labels that were.
        pictures: synthetic images, in the order of their index.
        curation: what became of the synthetic images, one entry a class.
        charts: losses and scores over the steps.
        ladder: simpler and richer ways to the same classifier, as ``evaluation.ladder.ladder_json`` tells; None where
            they were not measured.
        stages: what was run.
        settings: the run's config, as nested plain values.
        provenance: weights used.
        environment: machine and versions.
        notes: sentences that the reader must not miss.
        created: date, as text.
        version: clipstill's.
    """

    labels: tuple[str, ...]
    teacher: str
    student: str
    student_bytes: int
    student_parameters: int
    latency_ms: float
    teacher_bytes: int | None = None
    teacher_parameters: int | None = None
    parity: Mapping[str, Any] = field(default_factory=dict)
    evaluation: Mapping[str, Any] | None = None
    calibration: Mapping[str, Any] | None = None
    examples: int = 0
    unlabelled: int = 0
    pictures: tuple[Picture, ...] = ()
    curation: tuple[Curated, ...] = ()
    charts: tuple[Chart, ...] = ()
    ladder: Mapping[str, Any] | None = None
    stages: tuple[Stage, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    provenance: tuple[Provenance, ...] = ()
    environment: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    created: str = ""
    version: str = ""

    def to_dict(self) -> dict[str, Any]:
        """The same as plain values that JSON can hold."""
        return asdict(self)

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> ReportData:
        """The inverse of ``to_dict``, also after a way through JSON (where tuples became lists).

        Raises:
            ArtifactError: a field is missing or unknown.
        """
        try:
            return cls(
                **{
                    **raw,
                    "labels": tuple(raw["labels"]),
                    "pictures": tuple(Picture(**each) for each in raw.get("pictures", ())),
                    "curation": tuple(Curated(**each) for each in raw.get("curation", ())),
                    "charts": tuple(_chart(each) for each in raw.get("charts", ())),
                    "stages": tuple(Stage(**each) for each in raw.get("stages", ())),
                    "provenance": tuple(Provenance(**each) for each in raw.get("provenance", ())),
                    "notes": tuple(raw.get("notes", ())),
                }
            )
        except (TypeError, KeyError) as error:
            raise ArtifactError(
                f"the stored report cannot be read ({error}). Run the command that made it again."
            ) from None


def _chart(raw: Mapping[str, Any]) -> Chart:
    series = tuple(
        Series(each["name"], tuple((float(x), float(y)) for x, y in each["points"])) for each in raw["series"]
    )
    return Chart(raw["title"], raw["x"], series, raw.get("percent", False))


def picture_uri(pixels_HW3: np.ndarray, side: int = 128) -> str:
    """A synthetic image as a ``data:`` URI (WebP, a few kilobytes).

    Args:
        pixels_HW3: uint8.
        side: it is scaled down to this many pixels where it is larger.
    """
    from PIL import Image

    from clipstill.core.synthetic_mark import save_marked

    image = Image.fromarray(pixels_HW3)
    image.thumbnail((side, side), Image.Resampling.LANCZOS)
    stream = io.BytesIO()
    save_marked(image, stream, "WEBP", quality=82, method=4)
    return "data:image/webp;base64," + base64.b64encode(stream.getvalue()).decode()
