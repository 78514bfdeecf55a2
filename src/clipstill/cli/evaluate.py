"""``clipstill evaluate``: measure a run or a bundle on real photos."""

from __future__ import annotations

import clipstill
from clipstill.cli import options
from clipstill.cli.printing import print_result


def evaluate(
    folder: options.Source,
    images: options.RequiredImages,
    model: options.Model = "fp32",
    device: options.Device = None,
    allow_unmatched: options.AllowUnmatched = None,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Measure a run on real photos.

    The exported student, and its teacher beside it, top-1 and per class.
    """
    result = clipstill.evaluate(
        run=folder, images=images, device=device or "auto", format=model, allow_unmatched=bool(allow_unmatched)
    )
    print_result(result.to_json(), result.facts(), as_json)
