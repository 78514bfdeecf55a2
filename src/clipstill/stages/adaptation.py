"""Class vectors and unlabelled photos -> class vectors that fit the photos, by which the student is taught.

A stage of its own, behind which images do not stand: other photos make no image anew. The teacher's vectors of the
photos are another, since a class that is added needs the photos but not the teacher's sight of them again.

Shapes: N photos, C classes, D teacher dimensions.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from clipstill.core.files import read_json, write_json
from clipstill.core.progress import say
from clipstill.stages import class_vectors
from clipstill.workflow.photos import Photos
from clipstill.workflow.run import Run
from clipstill.workflow.settings import Settings
from clipstill.workflow.stage import Stage, Step

if TYPE_CHECKING:
    from torch import Tensor

FEATURES_NAME = "photo_features"
NAME = "adapted_vectors"
FACTS_FILE = "adaptation.json"
_FEATURES_FILE, _FEATURES = "photo_features.safetensors", "features"


def _make_features(run: Run, step: Step, folder: Path) -> list[str]:
    from clipstill.assembly.adaptation import encode_unlabelled
    from clipstill.core.tensors import write_tensors

    assert run.photos.unlabelled is not None
    feat_ND = encode_unlabelled(run.models.teacher, run.photos.unlabelled, run.models.device, run.settings.seed)
    write_tensors(folder / _FEATURES_FILE, {_FEATURES: feat_ND.half()})
    return [_FEATURES_FILE]


def _make(run: Run, step: Step, folder: Path) -> list[str]:
    from safetensors.torch import load_file

    from clipstill.assembly.adaptation import adapt, adaptation_facts, adaptation_line
    from clipstill.core.tensors import write_tensors

    feat_ND = load_file(run.folder(FEATURES_NAME) / _FEATURES_FILE)[_FEATURES].float()
    vectors = class_vectors.read_class_vectors(run).of_task
    found = adapt(run.models.teacher, run.task, run.settings, vectors, feat_ND=feat_ND)
    facts = adaptation_facts(found, run.task, len(feat_ND))
    say(adaptation_line(facts))
    write_tensors(folder / class_vectors.VECTORS_FILE, {class_vectors.VECTORS_NAME: found.vectors_CD})
    write_json(folder / FACTS_FILE, facts)
    return [class_vectors.VECTORS_FILE, FACTS_FILE]


def read_taught_vectors(run: Run) -> Tensor:
    """Class vectors (C, D) by which the student is taught, and which ship: adapted ones where the run has them."""
    from safetensors.torch import load_file

    if not run.has(NAME):
        return class_vectors.read_class_vectors(run).class_CD
    return load_file(run.folder(NAME) / class_vectors.VECTORS_FILE)[class_vectors.VECTORS_NAME]


def read_adaptation(run: Run) -> dict[str, Any] | None:
    """What was adapted from how many photos, as JSON values; None where nothing was."""
    return dict(read_json(run.folder(NAME) / FACTS_FILE)) if run.has(NAME) else None


def _adapts(settings: Settings, photos: Photos) -> bool:
    # Learned prompts have no words for other things.
    return settings.unlabelled.adapt and photos.unlabelled is not None and not settings.has_prompts


FEATURES = Stage(
    name=FEATURES_NAME,
    version=1,
    title="The teacher sees the unlabelled photos",
    make=_make_features,
    settings=("teacher", "unlabelled.images", "seed"),
    needed=_adapts,
)
STAGE = Stage(
    name=NAME,
    version=1,
    title="Adapt the class vectors to the unlabelled photos",
    make=_make,
    inputs=(class_vectors.NAME, FEATURES_NAME),
    needed=_adapts,
)
