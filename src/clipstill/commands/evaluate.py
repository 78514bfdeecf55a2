"""Measure an exported bundle, and its teacher beside it, on real photos.

What is measured is the file that ships: the ONNX model, run by the runtime.
"""

from __future__ import annotations

from pathlib import Path

from clipstill.assembly.measuring import measure_student
from clipstill.commands.results import Evaluation
from clipstill.core.device import pick_device
from clipstill.core.errors import ClipstillError
from clipstill.core.file_names import VECTORS_FILE, VECTORS_NAME
from clipstill.core.images import ImageFolder
from clipstill.core.progress import say
from clipstill.evaluation.evaluate import EvaluationResult, evaluate, teacher_predictor
from clipstill.runtime import MODEL, Bundle, load_bundle


def measure_bundle(
    path: Path, images: Path, *, device: str = "auto", batch: int = 32, model: str = MODEL
) -> Evaluation:
    """Top-1 and more of student and teacher.

    Args:
        path: A bundle or a run folder.
        images: Labelled photos, one sub-folder a class.
        device: Where the teacher runs; the student runs on the CPU.
        batch: Photos at once.
        model: Model of the bundle, as ``load_bundle`` takes it.

    Returns:
        Student and teacher; the teacher is None where it cannot be loaded here.

    Raises:
        ArtifactError: There is no bundle, or an altered one.
        DataError: The folder of photos is missing, empty, or fits none of the classes.
        ConfigError: There is no such device.
        ResourceError: This machine does not have it.
    """
    bundle = load_bundle(path, model=model)
    folder = ImageFolder.open(images, bundle.labels)
    student = measure_student(bundle, folder, batch, "evaluation, student")
    return Evaluation(student, _measure_teacher(bundle, folder, device, batch))


def _measure_teacher(bundle: Bundle, folder: ImageFolder, device_name: str, batch: int) -> EvaluationResult | None:
    from safetensors.torch import load_file

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
    predict = teacher_predictor(teacher, load_file(bundle.folder / VECTORS_FILE)[VECTORS_NAME], device)
    # The student's evaluation has named the files that cannot be read.
    return evaluate(predict, folder, teacher.preprocess, batch=batch, title="evaluation, teacher", name_skipped=False)
