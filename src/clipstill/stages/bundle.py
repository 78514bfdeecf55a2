"""The trained student -> the folder that is shipped."""

from __future__ import annotations

from pathlib import Path

from clipstill.assembly.bundles import write_described_bundle
from clipstill.core.description import Description
from clipstill.core.file_names import BUNDLE_FOLDER
from clipstill.core.protocols import Provenance
from clipstill.export.bundle import BundleContent
from clipstill.export.measure import FormatRequest
from clipstill.stages import adaptation, calibration, evaluation, images, student, teacher_prompts
from clipstill.stages.origin import origin_of
from clipstill.workflow.run import Run
from clipstill.workflow.stage import Stage, Step

NAME = "bundle"


def _make(run: Run, step: Step, folder: Path) -> None:
    from clipstill.assembly.pictures import MOST_PICTURES, labelled_photos, split_pictures

    trained, found, export = student.read_student(run), calibration.read_calibration(run), run.settings.export
    photos = run.photos
    description = Description(
        labels=run.task.names,
        preprocess=trained.preprocess,
        provenance=provenance_of(run),
        evaluation=evaluation.read_evaluation(run),
        calibration=found,
        temperature=found["temperature"],
        refusal_threshold=calibration.threshold_of(found),
        **photos.counts,
        origin=origin_of(run),
        info=run.metadata(),
    )
    # The pictures that trained the student without a label, and the run's photos.
    data = student.collect_training_set(run, with_examples=False, most_photos=MOST_PICTURES).data
    measured = {} if photos.measured is None else {"photos": labelled_photos(photos.measured, trained.preprocess)}
    pictures = split_pictures(data.pixels(trained.preprocess.side), run.settings.seed, measured)
    content = BundleContent(
        student=trained,
        class_vectors_CD=adaptation.read_taught_vectors(run),
        description=description,
        formats=FormatRequest(export.formats, pictures, export),
        teacher_prompts=teacher_prompts.prompts_file(run),
        page=export.page,
    )
    write_described_bundle(folder, content, step.key)


def provenance_of(run: Run) -> list[Provenance]:
    """Weights that the student comes from and that taught it, as the stages recorded them."""
    own = [Provenance(**part) for part in student.read_student_metadata(run)["provenance"]]
    return list(dict.fromkeys([*images.provenance_of(run), *own]))


STAGE = Stage(
    name=NAME,
    version=3,
    title="Export the bundle",
    make=_make,
    settings=("export",),
    inputs=(calibration.NAME, evaluation.NAME),
    folder=BUNDLE_FOLDER,
)
