"""Measure an exported bundle, and its teacher beside it, on real photos.

What is measured is the file that ships: the ONNX model, run by the runtime.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from clipstill.assembly.bundles import measure_student
from clipstill.core.copies import tell_two_labels
from clipstill.core.device import pick_device
from clipstill.core.errors import ClipstillError
from clipstill.core.file_names import VECTORS_FILE, VECTORS_NAME
from clipstill.core.image_folder import ImageFolder
from clipstill.core.progress import say
from clipstill.evaluation.evaluate import Evaluation, EvaluationResult, evaluate, teacher_predictor
from clipstill.runtime import Bundle, load_bundle

if TYPE_CHECKING:
    import torch


def measure_bundle(path: Path, images: Path, *, device: str, model: str, allow_unmatched: bool) -> Evaluation:
    """Measure the student on the CPU and the teacher on ``device``; see ``clipstill.api.evaluate``.

    The teacher's result is None where it cannot be loaded here. A zero-shot bundle is its teacher: measured once.

    Raises:
        ClipstillError: The bundle, the folder of photos or the device cannot be used.
    """
    bundle, place = load_bundle(path, model=model), pick_device(device)
    folder = ImageFolder.open(images, bundle.labels, allow_unmatched=allow_unmatched)
    tell_two_labels(folder)
    student = measure_student(bundle, folder, title="evaluation, student")
    if bundle.info.get("zero_shot") and model == "fp32":
        say("the bundle is its teacher's image tower with the same class vectors: measured once for both")
        return Evaluation(student, student)
    return Evaluation(student, _measure_teacher(bundle, folder, place))


def _measure_teacher(bundle: Bundle, folder: ImageFolder, device: torch.device) -> EvaluationResult | None:
    from safetensors.torch import load_file

    from clipstill.export.bundle import TEACHER_PROMPTS_FILE
    from clipstill.teachers import load_teacher
    from clipstill.teachers.prompted import load_prompts

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
    return evaluate(predict, folder, teacher.preprocess, title="evaluation, teacher", name_skipped=False)
