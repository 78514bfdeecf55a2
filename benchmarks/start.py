"""What a student begins with, without a run: the linear head of a teacher's tower beside that tower itself.

    python benchmarks/start.py --data DATA

Top-1 in percent by Lite0's features of the test photos, from names alone. ``drawings`` is the head fitted to the stored
drawings, ``mixtures`` the one fitted to mixtures of three of them, ``names`` the same with the answers of Lite0's
ImageNet classifier beside its features, as it ships; ``rows`` are those of that classifier, ``classifier`` the same
with its answers, as for networks that no teacher shares. Caltech-101 is five tasks of 20 classes.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from unittest.mock import patch

import torch
from names_only import TASKS
from torch import Tensor

from clipstill.assembly.class_vectors import task_of
from clipstill.assembly.first_heads import first_head
from clipstill.core.image_folder import ImageFolder, iterate
from clipstill.core.lite_network import FEATURES
from clipstill.students import load_student
from clipstill.students.settings import StudentSettings
from clipstill.teachers import class_vectors, embedded, load_teacher
from clipstill.teachers.ensemble import join
from clipstill.text.templates import NAME_TEMPLATES, class_texts


def features_of(teacher: embedded.EmbeddedTeacher, path: Path) -> tuple[Tensor, Tensor, list[str]]:
    """Features (N, F) of each tower, the largest first, joined; labels (N,); and names of the classes."""
    names = sorted(entry.name for entry in path.iterdir() if entry.is_dir())
    features, labels = [], []
    for pixels_NHW3, label_N in iterate(ImageFolder.open(path, names), teacher.preprocess, 32):
        x_N3HW = (torch.from_numpy(pixels_NHW3).permute(0, 3, 1, 2) / 255 - teacher._mean) / teacher._std
        towers = [tower.network for tower in teacher.towers]
        features.append(torch.cat([each.global_pool(each.forward_features(x_N3HW)) for each in towers], dim=1))
        labels += label_N
    return torch.cat(features), torch.tensor(labels), names


def right(names: list[str], every: list[str], feat_NX: Tensor, label_N: Tensor, answers: dict[str, float]) -> None:
    """Add to ``answers`` the share of right ones of each row, in percent."""
    own = torch.tensor([every.index(name) for name in names])
    of_task_N = torch.isin(label_N, own)
    label_N = torch.searchsorted(own, label_N[of_task_N])
    large, small = (load_teacher(name, torch.device("cpu")) for name in ("embedded-m", "embedded-s"))
    assert isinstance(large, embedded.EmbeddedTeacher)
    assert isinstance(small, embedded.EmbeddedTeacher)
    feats = torch.split(feat_NX[of_task_N], FEATURES, dim=1)
    texts = class_texts(task_of(tuple(names)), NAME_TEMPLATES)

    def by_towers(teacher: embedded.EmbeddedTeacher, feats: tuple[Tensor, ...]) -> Tensor:
        parts = [
            t.alignment.encode_image(f, t.network.classifier(f)) for t, f in zip(teacher.towers, feats, strict=True)
        ]
        return join(parts, teacher._shares) @ class_vectors(teacher, texts).T

    def by_head() -> Tensor:
        head = small.linear_head("lite0", class_vectors(small, texts))
        assert head is not None
        return feats[1] @ head[0].T + head[1]

    student, task = load_student("lite0", len(names)), task_of(tuple(names))
    found = {"embedded-m": by_towers(large, feats), "embedded-s": by_towers(small, feats[1:])}
    for start, plain in (("names", "mixtures"), ("classifier", "rows")):
        head = first_head(student, StudentSettings().changed(start=start), small, class_vectors(small, texts), task)
        assert head is not None
        assert head.answers_CK is not None
        found[plain] = feats[1] @ head.weight_CF.T + head.bias_C
        imagenet_NK = small.towers[0].network.classifier(feats[1]).softmax(1)
        found[start] = found[plain] + imagenet_NK @ head.answers_CK.T
    with patch.object(embedded, "mixtures", lambda feat_BF: feat_BF):
        found["drawings"] = by_head()
    for row, answer_NC in found.items():
        answers[row] = answers.get(row, 0.0) + 100 * float((answer_NC.argmax(1) == label_N).sum())


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    data = parser.parse_args().data
    teacher = load_teacher("embedded-m", torch.device("cpu"))
    assert isinstance(teacher, embedded.EmbeddedTeacher)
    rows = ("embedded-m", "embedded-s", "drawings", "mixtures", "names", "rows", "classifier")
    print(f"| photos | {' | '.join(rows)} |\n|---|{'---:|' * len(rows)}")
    total = dict.fromkeys(rows, 0.0)
    sets = [pair for task in TASKS if task != "flowers" for pair in TASKS[task].items()]
    for name, path in sets:
        feat_NX, label_N, every = features_of(teacher, data / path)
        answers: dict[str, float] = {}
        tasks = [every[start::5] for start in range(5)] if "caltech" in path else [every]
        for names in tasks:
            right(names, every, feat_NX, label_N, answers)
        shares = {row: answers[row] / len(label_N) for row in rows}
        total = {row: total[row] + shares[row] / len(sets) for row in rows}
        title = "Caltech-101, five tasks" if "caltech" in path else name
        print(f"| {title} | {' | '.join(f'{shares[row]:.1f}' for row in rows)} |", flush=True)
    print(f"| mean | {' | '.join(f'{total[row]:.1f}' for row in rows)} |")


if __name__ == "__main__":
    main()
