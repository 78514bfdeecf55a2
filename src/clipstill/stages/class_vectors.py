"""Class names and examples -> one unit vector a class in the teacher's space.

Shapes: C classes, D teacher dimensions, M examples.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clipstill.assembly.class_vectors import TaskVectors, task_vectors, templates_of
from clipstill.core.files import read_json, write_json
from clipstill.core.progress import listed, say
from clipstill.core.protocols import PromptedTeacher
from clipstill.stages import teacher_prompts
from clipstill.text.reading import as_read
from clipstill.workflow.run import Run
from clipstill.workflow.stage import Stage, Step

if TYPE_CHECKING:
    from torch import Tensor

NAME = "class_vectors"
VECTORS_FILE = "class_vectors.safetensors"
VECTORS_NAME = "class_vectors"
TEXT_VECTORS_NAME = "text_vectors"
TEACHER_FILE = "teacher.json"


def _make(run: Run, step: Step, folder: Path) -> list[str]:
    import torch

    from clipstill.core.tensors import write_tensors

    teacher = teacher_prompts.teacher_of(run)
    is_prompted = isinstance(teacher, PromptedTeacher)
    given = None if is_prompted else run.photos.examples
    found = task_vectors(teacher, run.task, run.settings, given, device=run.models.device)
    tensors = {VECTORS_NAME: found.class_CD, TEXT_VECTORS_NAME: found.text_CD}
    counts: dict[str, Any] = {}
    if isinstance(teacher, PromptedTeacher):
        # After its prompts are loaded, once: the student is trained with these vectors and ships with them.
        tensors[VECTORS_NAME] = teacher.class_vectors(as_read(run.task, teacher.multilingual).names).detach().cpu()
    elif found.examples is not None:
        shown = found.examples
        tensors |= {"prototypes": shown.prototypes_CD, "counts": shown.count_C, "shift": shown.shift_D}
        tensors["text_count"] = torch.tensor(found.text_count)
        examples = dict(zip(run.task.names, shown.count_C.tolist(), strict=True))
        without = [name for name, number in examples.items() if number == 0]
        by_text = f"; from text alone: {listed(without)}" if without else ""
        total, classes = sum(examples.values()), len(examples) - len(without)
        say(f"class vectors: {total} examples of {classes} classes{by_text}")
        counts["examples"] = examples
    write_tensors(folder / VECTORS_FILE, tensors)
    metadata = {
        "name": teacher.name,
        "image_size": teacher.image_size,
        "dim": teacher.dim,
        "logit_scale": teacher.logit_scale,
        "templates": templates_of(run.settings, teacher),
        "image_parameters": teacher.image_parameters,
        "weights_sha256": teacher.weights_sha256,
        "preprocess": asdict(teacher.preprocess),
        "provenance": [asdict(part) for part in teacher.provenance],
        **counts,
    }
    write_json(folder / TEACHER_FILE, metadata)
    return [VECTORS_FILE, TEACHER_FILE]


@dataclass(frozen=True)
class ClassVectors:
    """What the stage stored, on the CPU."""

    tensors: dict[str, Tensor]  # Tensors of the file by name.
    has_prompts: bool  # Whether the teacher has learned prompts.
    style_share: float  # How far a style moves the prototype that an image is drawn towards.

    @property
    def class_CD(self) -> Tensor:
        """Unit vectors by which the teacher tells the classes apart."""
        return self.tensors[VECTORS_NAME]

    @property
    def text_CD(self) -> Tensor:
        """Unit vectors from texts alone, which prompts are measured by."""
        return self.tensors[TEXT_VECTORS_NAME]

    @property
    def image_CD(self) -> Tensor:
        """Unit vectors that images are drawn towards: those of the teacher without prompts, which sees the images."""
        return self.text_CD if self.has_prompts else self.class_CD

    def targets(self, text_target_ND: Tensor, class_ids: Sequence[int]) -> Tensor:
        """Unit vectors of texts -> those that images are drawn towards, moved to where the examples lie."""
        from clipstill.teachers.prototypes import targets_with_examples

        found = self.of_task.examples
        if self.has_prompts or found is None:
            return text_target_ND
        return targets_with_examples(
            text_target_ND, class_ids, text_CD=self.text_CD, examples=found, style_share=self.style_share
        )

    @property
    def of_task(self) -> TaskVectors:
        """The vectors as they were made."""
        from clipstill.teachers.prototypes import ExampleVectors

        if "prototypes" not in self.tensors:
            return TaskVectors(self.class_CD, self.text_CD)
        found = ExampleVectors(*(self.tensors[name] for name in ("prototypes", "counts", "shift")))
        return TaskVectors(self.class_CD, self.text_CD, found, float(self.tensors["text_count"]))


def read_class_vectors(run: Run) -> ClassVectors:
    """The stored vectors of a run."""
    from safetensors.torch import load_file

    tensors = load_file(run.folder(NAME) / VECTORS_FILE)
    return ClassVectors(tensors, run.has(teacher_prompts.NAME), run.settings.examples.style_share)


def read_teacher_metadata(run: Run) -> dict[str, Any]:
    """Name, size, logit scale, templates, provenance and more of the teacher, as JSON values."""
    return dict(read_json(run.folder(NAME) / TEACHER_FILE))


STAGE = Stage(
    name=NAME,
    version=4,
    title="The teacher reads the class names",
    make=_make,
    settings=("task", "teacher", "prompts.templates", "examples.images", "examples.text_count", "examples.whitening"),
    inputs=(teacher_prompts.NAME,),
)
