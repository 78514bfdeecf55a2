"""Large JPEGs, as phones make them: how quickly photos are named, and whether a smaller decoding changes an answer.

    python benchmarks/phone_photos.py RUN --photos pacs/test/photo

The photos are enlarged to each size, with the noise of a sensor. ``whole`` decodes every pixel, ``ours`` as many as the
model needs; they take turns, and the best of three counts. ``predict`` names one photo after the other on one thread,
``folder`` all of them, decoded in threads; ``evaluate`` measures the folder, and ``serve`` answers a client that sends
one after the other. Answers are compared at 12 megapixels.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import numpy as np
from PIL import Image
from starlette.testclient import TestClient

from clipstill.core import images
from clipstill.core.image_folder import ImageFolder
from clipstill.core.images import load_rgb, read_fitted
from clipstill.evaluation.evaluate import evaluate
from clipstill.runtime import Bundle, load_bundle
from clipstill.serving.app import create_app
from clipstill.serving.uploads import Limits

MEGAPIXELS = (0.3, 1.2, 12, 48)


def enlarged(source: Path, megapixels: float, to: Path) -> Path:
    """A JPEG of 4:3 of this size, each side a multiple of 16."""
    width, height = (16 * round((megapixels * 1e6 * ratio) ** 0.5 / 16) for ratio in (4 / 3, 3 / 4))
    soft = np.asarray(load_rgb(source).resize((width, height), Image.Resampling.BICUBIC), dtype=np.int16)
    noise = np.random.default_rng(0).normal(0, 4, (64, width, 3)).astype(np.int16)
    noisy = soft + np.concatenate([np.roll(noise, 7 * row, axis=1) for row in range(-(-height // 64))])[:height]
    Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(to, quality=90)
    return to


def milliseconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return 1000 * (time.perf_counter() - start)


# Times the pixels a side that a model needs at which a JPEG is decoded: of ``whole``, more than any has.
WAYS = {"whole": 10**9, "ours": images._ENOUGH}
COLUMNS = ("predict", "folder", "evaluate", "serve")


def speed(classifier: Bundle, photos: list[Path], client: TestClient) -> str:
    """Milliseconds a photo, of each column by ``whole`` and ours."""
    folder = ImageFolder.without_labels(photos[0].parent)
    folder = replace(folder, classes=classifier.labels, items=[(path, 0) for path in photos])
    calls: dict[str, Callable[[], object]] = {
        "predict": lambda: [classifier.predict(photo) for photo in photos],
        "folder": lambda: classifier.predict(list(photos)),
        "evaluate": lambda: evaluate(classifier.logits, folder, classifier.preprocess),
        "serve": lambda: [
            client.post(
                "/predict", content=photo.read_bytes(), headers={"content-type": "image/jpeg"}
            ).raise_for_status()
            for photo in photos
        ],
    }
    best: dict[tuple[str, str], float] = {}
    for _ in range(3):
        for way, enough in WAYS.items():
            with patch.object(images, "_ENOUGH", enough):
                for name, call in calls.items():
                    taken = milliseconds(call) / len(photos)
                    best[name, way] = min(best.get((name, way), taken), taken)
    return " | ".join(f"{best[name, way]:.1f}" for name in COLUMNS for way in WAYS)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="a run or a bundle")
    parser.add_argument("--photos", type=Path, required=True, help="folder of photos")
    parser.add_argument("--megapixels", nargs="+", type=float, default=MEGAPIXELS)
    parser.add_argument("--timed", type=int, default=8, help="photos that are timed, of each size")
    parser.add_argument("--compared", type=int, default=200, help="photos whose answers are compared")
    given = parser.parse_args()
    sources = [path for path, _ in ImageFolder.without_labels(given.photos).items]
    classifier = load_bundle(given.run, threads=1)
    with tempfile.TemporaryDirectory() as folder:
        titles = " | ".join(f"{name}, whole | ours" for name in COLUMNS)
        print(f"| megapixels | {titles} |\n|---:|{2 * len(COLUMNS) * '---:|'}", flush=True)
        with TestClient(create_app(classifier, limits=Limits(body_bytes=10**9, held_bytes=10**9))) as client:
            for size in given.megapixels:
                made = [enlarged(each, size, Path(folder, f"{i}.jpg")) for i, each in enumerate(sources[: given.timed])]
                print(f"| {size:g} | {speed(classifier, made, client)} |", flush=True)
        same, gaps, shifts = 0, [], []
        chosen = sources[:: max(1, len(sources) // given.compared)][: given.compared]
        for source in chosen:
            made = [enlarged(source, 12, Path(folder, "one.jpg"))]
            pixels = []
            for enough in WAYS.values():
                with patch.object(images, "_ENOUGH", enough):
                    pixels.append(read_fitted(made[0], classifier.preprocess))
            answers = [classifier.answer_pixels(each[None])[0].predictions for each in pixels]
            same += answers[0][0].label == answers[1][0].label
            gaps.append(np.abs(pixels[0].astype(int) - pixels[1]).mean())
            scores = [{each.label: each.score for each in answer} for answer in answers]
            shifts.append(max(abs(scores[0][label] - scores[1][label]) for label in scores[0]))
    print(
        f"\n{same} of {len(chosen)} photos keep their answer; pixels differ by {np.mean(gaps):.2f} of 255 on average "
        f"(at most {max(gaps):.2f} in a photo), probabilities by {np.mean(shifts):.4f} (at most {max(shifts):.3f})."
    )


if __name__ == "__main__":
    main()
