"""Measure an exported bundle, and its teacher beside it, on real photos.

What is measured is the file that ships: the ONNX model, run by the runtime.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from clipstill.core.errors import ClipstillError
from clipstill.core.images import ImageFolder
from clipstill.core.progress import say
from clipstill.evaluation.evaluate import Calibration, EvaluationResult, evaluate, side_by_side, teacher_predictor
from clipstill.runtime import MODEL, Bundle, load_bundle
from clipstill.workflow.workbench import VECTORS_FILE, VECTORS_NAME


def measure_bundle(
    path: Path, images: Path, device: str = "auto", batch: int = 32, model: str = MODEL
) -> dict[str, Any]:
    """Top-1 and more of student and teacher.

    Args:
        path: a bundle or a run folder.
        images: one sub-folder a class.
        device: where the teacher runs; the student runs on the CPU.
        batch: photos at once.
        model: of the bundle, as ``load_bundle`` takes it.

    Returns:
        JSON values as of ``evaluation.compare``: ``n``, ``classes``, ``teacher_top1``, ``student_top1``, ``chance``,
        ``teacher``, ``student``, ``skipped``. What tells of the teacher is None where it cannot be loaded here.

    Raises:
        ArtifactError: no bundle, or an altered one.
        DataError: the photo folder is missing, empty, or fits none of the classes.
        ConfigError: no such device.
        ResourceError: this machine does not have it.
    """
    bundle = load_bundle(path, model=model)
    folder = ImageFolder.open(images, bundle.labels)
    student = measure_student(bundle, folder, batch, "evaluation, student")
    teacher = _measure_teacher(bundle, folder, device, batch)
    return side_by_side(student, teacher)


def measure_student(bundle: Bundle, folder: ImageFolder, batch: int, title: str) -> EvaluationResult:
    """The exported student, with its temperature and its threshold of refusal."""
    return evaluate(
        bundle.logits,
        folder,
        bundle.preprocess,
        batch=batch,
        title=title,
        calibration=Calibration(bundle.temperature, bundle.refusal_threshold),
    )


def _measure_teacher(bundle: Bundle, folder: ImageFolder, device_name: str, batch: int) -> EvaluationResult | None:
    from safetensors.torch import load_file

    from clipstill.core.device import pick_device
    from clipstill.export.bundle import TEACHER_PROMPTS_FILE
    from clipstill.teachers import load_teacher
    from clipstill.teachers.prompted import load_prompts

    device = pick_device(device_name)
    name, precision = str(bundle.info.get("teacher", "")), str(bundle.info.get("teacher_precision", "fp32"))
    try:
        # Half precision is a matter of speed on GPUs; the CPU takes the full one.
        teacher = load_teacher(name, device, "fp32" if device.type == "cpu" else precision)
        if (bundle.folder / TEACHER_PROMPTS_FILE).is_file():
            teacher = load_prompts(teacher, bundle.folder / TEACHER_PROMPTS_FILE)
    except ClipstillError as error:
        say(f"the teacher is not measured: {error}")
        return None
    vectors_CD = load_file(bundle.folder / VECTORS_FILE)[VECTORS_NAME]
    predict = teacher_predictor(teacher, vectors_CD, device)
    # The student's evaluation has named the files that cannot be read.
    return evaluate(predict, folder, teacher.preprocess, batch=batch, title="evaluation, teacher", name_skipped=False)
