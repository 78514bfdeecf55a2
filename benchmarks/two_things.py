"""What a classifier says of pictures that show two of its classes: both, one or none among its first two answers.

    python benchmarks/two_things.py --data ../shared/data --out runs/two-things

Sixty pairs of PACS photos of two classes stand side by side, each photo a square. The bundle is that of embedded-s with
stored class vectors. It is asked of the picture, of the picture padded with white to a square, and of each half alone,
whose best answers count.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path

import torch
from PIL import Image, ImageOps

import clipstill
from clipstill.core.seeds import generator_for

_PAIRS, _SIDE = 60, 227
_CLASSES = ("dog", "elephant", "giraffe", "guitar", "horse", "house", "person")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    photos = args.data / "pacs/test/photo"
    found = clipstill.zero_shot(classes=_CLASSES, teacher="embedded-s", images=photos, out=args.out)
    bundle = clipstill.load_bundle(found.out)
    assert found.evaluation is not None
    print(f"one thing a photo, {found.evaluation.n} photos: {100 * found.evaluation.top1:.1f} % right\n")

    shown: list[set[str]] = []
    answers: dict[str, list[set[str]]] = {"the picture": [], "in a white square": [], "each half alone": []}
    scores: list[tuple[float, float]] = []
    scores_of_one: list[tuple[float, float]] = []
    for number in range(_PAIRS):
        random = generator_for(0, "two things", number)
        names = [_CLASSES[place] for place in torch.randperm(len(_CLASSES), generator=random)[:2].tolist()]
        halves = [_photo(photos / name, random) for name in names]
        picture = Image.new("RGB", (2 * _SIDE, _SIDE))
        for place, half in enumerate(halves):
            picture.paste(half, (place * _SIDE, 0))
        square = ImageOps.pad(picture, (2 * _SIDE, 2 * _SIDE), color="white")
        first, second = bundle.answer([picture], top=2)[0].predictions
        shown.append(set(names))
        scores.append((first.score, second.score))
        answers["the picture"].append({first.label, second.label})
        answers["in a white square"].append({each.label for each in bundle.answer([square], top=2)[0].predictions})
        of_halves = [each.predictions for each in bundle.answer(halves, top=2)]
        answers["each half alone"].append({best.label for best, _ in of_halves})
        scores_of_one += [(best.score, next_best.score) for best, next_best in of_halves]
    print("| asked of | both found | one | none |\n|---|---:|---:|---:|")
    for name, said in answers.items():
        counts = [len(one & other) for one, other in zip(shown, said, strict=True)]
        print(f"| {name} | {counts.count(2)} | {counts.count(1)} | {counts.count(0)} |")
    print()
    for title, pairs in (("two things", scores), ("one thing", scores_of_one)):
        means = [100 * statistics.mean(column) for column in zip(*pairs, strict=True)]
        likely = sum(second >= 0.1 for _, second in pairs)
        print(f"{title}: mean scores of the first two answers {means[0]:.0f} and {means[1]:.0f} %;", end=" ")
        print(f"second answer at 10 % or more in {likely} of {len(pairs)}")


def _photo(folder: Path, random: torch.Generator) -> Image.Image:
    files = sorted(folder.iterdir())
    with Image.open(files[int(torch.randint(len(files), (), generator=random))]) as photo:
        return ImageOps.fit(photo.convert("RGB"), (_SIDE, _SIDE))


if __name__ == "__main__":
    main()
