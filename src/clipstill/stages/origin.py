"""Where a student comes from: what was given, what made it, and the hash of each thing on the way, as JSON values."""

from __future__ import annotations

from typing import Any

from clipstill.core.device import precision_on
from clipstill.core.files import MANIFEST, read_manifest, sha256_file, sha256_json
from clipstill.core.image_folder import ImageFolder
from clipstill.stages import class_vectors, prompts
from clipstill.workflow.run import Run


def origin_of(run: Run) -> dict[str, Any]:
    """The origin of a run whose stages before the bundle are complete."""
    settings, teacher = run.settings, class_vectors.read_teacher_metadata(run)
    photos = {
        "examples": run.photos.examples,
        "unlabelled photos": run.photos.unlabelled,
        "photos measured on": run.photos.measured,
    }
    has_images = settings.prompts.images_per_class > 0
    distillation = ("loss", "temperature", "meta", "freeze", "steps")
    return {
        "task": {"classes": len(run.task.names), "sha256": sha256_json(run.task.to_json())},
        "given": {name: _photos(folder) for name, folder in photos.items() if folder is not None},
        "teacher": {
            "name": teacher["name"],
            "precision": precision_on(run.models.device, settings.teacher.precision),
            "weights_sha256": teacher["weights_sha256"],
            "sentences": list(teacher["templates"]),
            "prompts": "learned" if settings.has_prompts else "none",
        },
        "generator": settings.generator.name if has_images else None,
        "prompts": _prompts(run) if has_images else None,
        "student": {"name": settings.student.name, "init": settings.student.init, "head": settings.student.head},
        "distillation": {name: getattr(settings.distillation, name) for name in distillation},
        "seed": settings.seed,
        "settings_sha256": sha256_json(settings.model_dump(mode="json")),
        "stages": _stages(run),
    }


def _photos(folder: ImageFolder) -> dict[str, Any]:
    """How many photos of how many classes, and one hash of their names, classes and sizes."""
    listed = [[str(path.relative_to(folder.path)), label, path.stat().st_size] for path, label in folder.items]
    labels = {label for _, label in folder.items if label >= 0}
    return {"photos": len(listed), "classes": len(labels), "list_sha256": sha256_json(listed)}


def _prompts(run: Run) -> dict[str, Any]:
    section = run.settings.prompts
    return {
        "strategy": section.strategy,
        "styles": list(prompts.read_style_names(run)),
        "template": section.template,
        "images_per_class": section.images_per_class,
        "prompts": section.images_per_class * len(run.task.names),
    }


def _stages(run: Run) -> dict[str, dict[str, Any]]:
    """Of each stage before the bundle: its key, the hash of its manifest, which lists all files, and of its tensors."""
    found = {}
    for step in run.steps:
        folder = run.store.folder(step)
        manifest = read_manifest(folder) if step.is_kept and folder.is_dir() else None
        if manifest is not None and manifest.key == step.key:
            tensors = {name: digest for name, digest in manifest.files.items() if name.endswith(".safetensors")}
            digest = sha256_file(folder / MANIFEST)
            found[step.name] = {"key": manifest.key, "manifest_sha256": digest, "tensors": tensors}
    return found
