"""Recipe of the embedded teachers: packages, drawings and words, features, alignment, files and licence ledger.

From an empty cache it takes about an hour on two slow cores, most of it for the features; from a full one, minutes.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file

from clipstill.core.files import atomic_path, sha256_file, write_json, write_text
from clipstill.core.packaged_weights import lite_provenance
from clipstill.core.paths import user_path
from clipstill.core.progress import say
from clipstill.core.protocols import Provenance
from clipstill.teachers.embedded import DRAWINGS_FILE, Alignment, Words
from clipstill.teachers.minilm import MiniLM
from tools.weights.alignment import AlignmentSettings, Choices, TrainingTexts, train_alignment
from tools.weights.measure_teachers import as_table, measure_teachers
from tools.weights.packages import PACKAGES, TRAINING, package_table, trained_licence, training_facts
from tools.weights.pictures import Picture, captioned_pictures, decode_all
from tools.weights.tower_features import Classifier, drawing_features, natural_mean
from tools.weights.words import PERSON, Noun, TextVectors, imagenet_nouns, words_tensors

# Tower -> side of photos in pixels; smaller than in its training (224 and 260), for speed, and here as right.
IMAGE_SIZES = {"lite0": 160, "lite2": 160}
WORDS_FILE = "embedded-words.safetensors"
LEDGER_FILE = "LICENCES-embedded.md"
MEASURED_FILE = "embedded-measured.json"
# Drawings whose features are kept for the heads that students begin with: 4 MB for both towers.
DRAWINGS = 1600
DATA_VARIABLE = "CLIPSTILL_DATA"
# Nouns above the ImageNet classes of people and clothes.
_PEOPLE = ("person", "man", "woman")


def build_teachers(out: Path, cache: Path) -> None:
    """Build, measure and write both sizes of the embedded teacher.

    They are measured on the test photos in the folder that the environment variable ``CLIPSTILL_DATA`` names, if any.

    Args:
        out: Folder for the weights, the measurement and the licence ledger.
        cache: Folder of packages, pictures and features.

    Raises:
        ResourceError: A package cannot be fetched.
        DataError: A package differs from the pinned one.
    """
    cache.mkdir(parents=True, exist_ok=True)
    pictures, rgba = decode_all(captioned_pictures(cache), cache / "pictures.npy")
    say(f"{len(pictures)} captioned pictures")
    shown, features = drawing_features(pictures, rgba, tuple(IMAGE_SIZES), cache)
    write_drawings(features, out / DRAWINGS_FILE)
    nouns, classes = imagenet_nouns(cache)
    settings = AlignmentSettings()
    texts = {text for picture in pictures for text in (picture.name, picture.caption)}
    texts |= {lemma for noun in nouns for lemma in noun.lemmas}
    vectors = TextVectors(texts | set(_PEOPLE), cache)
    with atomic_path(out / WORDS_FILE) as temporary:
        save_file(words_tensors(nouns, classes, vectors), temporary)
    # Read back, to train with the rounded words that a teacher will use.
    words = Words(out / WORDS_FILE)
    learned = training_texts(shown, nouns, classes, vectors, widest=settings.widest_noun)
    for size, image_size in IMAGE_SIZES.items():
        classifier = Classifier.of(size)
        feat_NF = torch.from_numpy(features[size].astype(np.float32))
        alignment = train_alignment(
            words,
            classifier,
            feat_NF,
            learned,
            natural_mean_F=natural_mean(size),
            settings=settings,
            title=f"alignment of {size}",
        )
        write_alignment(alignment, out / f"embedded-{size}.safetensors", size, image_size)
    write_text(out / LEDGER_FILE, ledger(out))
    say(f"written: {out}")
    data = os.environ.get(DATA_VARIABLE)
    if data:
        measured = measure_teachers(out, user_path(data))
        write_json(out / MEASURED_FILE, measured)
        print(as_table(measured))
    else:
        say(f"not measured: {DATA_VARIABLE} does not name a folder of test photos")


def training_texts(
    pictures: Sequence[Picture], nouns: Sequence[Noun], classes: Sequence[Noun], vectors: TextVectors, *, widest: int
) -> TrainingTexts:
    """The texts of each drawing and each ImageNet class.

    Args:
        pictures: The drawings.
        nouns: Nouns above the classes.
        classes: The noun of each class.
        vectors: Vectors of all texts.
        widest: Most classes below a noun that still says something about them.
    """
    above: list[list[int]] = [[] for _ in classes]
    for noun in nouns:
        if noun.offset == PERSON or 1 < len(noun.members) <= widest:
            texts = vectors.numbers(_PEOPLE if noun.offset == PERSON else noun.lemmas[:1])
            for member in noun.members:
                above[member] += texts
    return TrainingTexts(
        text_ME=vectors.vectors_ME,
        name_N=torch.tensor(vectors.numbers(picture.name for picture in pictures)),
        caption_N=torch.tensor(vectors.numbers(picture.caption for picture in pictures)),
        class_names=Choices([vectors.numbers(noun.lemmas) for noun in classes]),
        class_above=Choices(above),
    )


def write_alignment(alignment: Alignment, path: Path, size: str, image_size: int) -> None:
    """Write one tower's alignment: float16 tensors, and facts as strings."""
    weights = {name: tensor.half().contiguous() for name, tensor in alignment.state_dict().items()}
    facts = {"tower": size, "image_size": str(image_size), **training_facts(TRAINING)}
    with atomic_path(path) as temporary:
        save_file(weights, temporary, metadata=facts)


def write_drawings(features: Mapping[str, NDArray[np.float16]], path: Path) -> None:
    """Write the features (M, F) of every so many drawings in all towers, in 256 levels a channel."""
    tensors: dict[str, torch.Tensor] = {}
    for size, feat_MF in features.items():
        rows = np.linspace(0, len(feat_MF) - 1, min(DRAWINGS, len(feat_MF))).astype(int)
        chosen_BF = torch.from_numpy(feat_MF[rows].astype(np.float32))
        step_F = chosen_BF.amax(0).clamp_min(1e-6) / 255
        tensors |= {f"{size}_levels": (chosen_BF / step_F).round().byte(), f"{size}_step": step_F}
    with atomic_path(path) as temporary:
        save_file(tensors, temporary, metadata=training_facts(TRAINING))


def licence() -> str:
    """The licence expression of the trained weights."""
    return trained_licence(TRAINING)


def ledger(out: Path) -> str:
    """The text of ``LICENCES-embedded.md``."""
    words, learned = out / WORDS_FILE, [out / f"embedded-{size}.safetensors" for size in IMAGE_SIZES]
    learned.append(out / DRAWINGS_FILE)
    stored = [
        Provenance(words.name, f"Apache-2.0 AND {PACKAGES['wordnet-base'].licence}", "this recipe", sha256_file(words)),
        *(Provenance(path.name, licence(), "this recipe", sha256_file(path)) for path in learned),
    ]
    frozen = [MiniLM.provenance, *(lite_provenance(size) for size in IMAGE_SIZES)]
    return "\n".join(
        [
            "# Licences of the embedded teachers",
            "",
            "Made by `python -m tools.weights embedded-teacher`; do not edit.",
            "",
            "clipstill gives the trained weights under Apache-2.0, as far as it holds rights in them. They were",
            "**trained on pictures and words of others**, all of them public domain, or under licences that allow",
            "any use and ask at most that the authors are named. (The OFL asks more of fonts, and nothing of pictures",
            "that are drawn with one.) No picture is stored in the weights. Whether weights derive from what they",
            "learned from is not settled law. The licence recorded in the weight files is therefore the conjunction",
            "of all, which is **permissive, with attribution**; the authors to be named are recorded beside it, and",
            "in the `LICENCES.md` of each bundle:",
            "",
            f"`{licence()}`",
            "",
            "PACS and Caltech-101 pictures are not among the training pictures. The settings of the recipe",
            "(steps, widths, the clothes of `person`) were chosen by accuracy on their `train` halves; the sources of",
            "pictures and the image sizes by accuracy on their `test` halves, and confirmed on two other sets.",
            "",
            "## Stored files",
            "",
            *_table(stored),
            "",
            "## Frozen networks, used through their packages",
            "",
            *_table(frozen),
            "",
            "The image towers were trained on ImageNet-1k by their authors.",
            "",
            "## Pictures and words that the weights learned from",
            "",
            *package_table(TRAINING),
            "",
        ]
    )


def _table(parts: Iterable[Provenance]) -> list[str]:
    rows = (f"| {part.name} | {part.licence} | {part.source} | `{part.sha256}` |" for part in parts)
    return ["| part | licence | source | sha256 |", "|---|---|---|---|", *rows]
