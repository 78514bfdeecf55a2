"""``clipstill evaluate``: measure a run or a bundle on real photos."""

from __future__ import annotations

import clipstill
from clipstill.cli import options
from clipstill.cli.printing import print_result, print_table
from clipstill.core.progress import percent

# Mistakes that the table shows; all of them are in the JSON.
_SHOWN = 20


def evaluate(
    folder: options.Source,
    photos: options.Photos = None,
    images: options.Images = None,
    model: options.Model = "fp32",
    device: options.Device = None,
    allow_unmatched: options.AllowUnmatched = None,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Measure a run on real photos, one sub-folder a class.

    The exported student, and its teacher beside it, top-1 and per class; and the photos that it got wrong.

    clipstill evaluate runs/zoo photos
    """
    place = options.photos_of(photos, images, "clipstill evaluate RUN photos")
    result = clipstill.evaluate(
        run=folder, images=place, device=device or "auto", format=model, allow_unmatched=bool(allow_unmatched)
    )
    mistakes = result.student.mistakes
    print_result({**result.to_json(), "mistakes": [one.to_json() for one in mistakes]}, result.facts(), as_json)
    if mistakes and not as_json:
        rows = [(one.file, one.label, one.said, percent(one.score)) for one in mistakes[:_SHOWN]]
        print()
        print_table([(f"{len(mistakes)} wrong", "is", "answer", "probability"), *rows])
        if len(mistakes) > _SHOWN:
            print(f"  and {len(mistakes) - _SHOWN} more: --json has all of them")
