"""Where a student comes from, as plain facts: what was given, what made it, and the hash of each thing on the way.

They stand in the bundle's ``MANIFEST.json`` (``info.origin``) for programs and in ``card.md`` for people. A file of
their own would say the same a third time: ``metrics.json`` holds what was measured, and the manifest every file's hash.
"""

from __future__ import annotations

from typing import Any

from clipstill.core.files import MANIFEST, read_json, read_manifest, sha256_file, sha256_json
from clipstill.core.images import ImageFolder
from clipstill.workflow.keys import BUNDLE, CLASS_VECTORS, LADDER, REPORT
from clipstill.workflow.workbench import TEACHER_FILE, Workbench


def origin_of(bench: Workbench) -> dict[str, Any]:
    """The facts of a run whose stages before the bundle are complete."""
    config, teacher = bench.config, read_json(bench.run.stage(CLASS_VECTORS) / TEACHER_FILE)
    given = {"examples": bench.examples, "unlabelled photos": bench.unlabelled, "photos measured on": bench.photos}
    made_images = config.prompts.images_per_class > 0
    return {
        "task": {"classes": len(bench.task.names), "sha256": sha256_json(bench.task.to_json())},
        "given": {name: _photos(folder) for name, folder in given.items() if folder is not None},
        "teacher": {
            "name": teacher["name"],
            "precision": config.teacher.precision,
            "weights_sha256": teacher["weights_sha256"],
            "sentences": list(teacher["templates"]),
            "prompts": "learned" if config.has_prompts else "none",
        },
        "generator": config.generator.name if made_images else None,
        "prompts": _prompts(bench) if made_images else None,
        "student": {"name": config.student.name, "init": config.student.init, "head": config.student.head},
        "distillation": {
            name: getattr(config.distillation, name) for name in ("loss", "temperature", "meta", "freeze", "steps")
        },
        "seed": config.seed,
        "settings_sha256": sha256_json(config.model_dump(mode="json")),
        "stages": _stages(bench),
    }


def _photos(folder: ImageFolder) -> dict[str, Any]:
    """How many photos of how many classes, and one hash of their names, classes and sizes."""
    listed = [[str(path.relative_to(folder.path)), label, path.stat().st_size] for path, label in folder.items]
    labels = {label for _, label in folder.items if label >= 0}
    return {"photos": len(listed), "classes": len(labels), "list_sha256": sha256_json(listed)}


def _prompts(bench: Workbench) -> dict[str, Any]:
    section = bench.config.prompts
    return {
        "strategy": section.strategy,
        "styles": list(bench.style_names),
        "template": section.template,
        "images_per_class": section.images_per_class,
        "prompts": section.images_per_class * len(bench.task.names),
    }


def _stages(bench: Workbench) -> dict[str, dict[str, Any]]:
    """Of every stage before the bundle: its key, the hash of its manifest, which vouches for all files, and tensors."""
    told = {}
    for stage in (stage for stage in bench.keys if stage not in (BUNDLE, LADDER, REPORT)):
        folder = bench.run.stage(stage)
        manifest = read_manifest(folder) if folder.is_dir() else None
        if manifest is not None:
            tensors = {name: digest for name, digest in manifest.files.items() if name.endswith(".safetensors")}
            told[stage] = {"key": manifest.key, "manifest_sha256": sha256_file(folder / MANIFEST), "tensors": tensors}
    return told
