"""``clipstill predict``: name what photos show, with an exported bundle."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from clipstill.cli.options import JsonOption, ModelOption, print_json
from clipstill.core.errors import ClipstillError, DataError
from clipstill.core.names import plain


def predict(
    bundle: Annotated[Path, typer.Argument(help="A bundle, or a run folder.")],
    photos: Annotated[list[Path], typer.Argument(metavar="PHOTO...", help="Picture files.")],
    top: Annotated[int, typer.Option("--top", "-k", min=1, help="Classes to show for each photo.")] = 3,
    model: ModelOption = "fp32",
    as_json: JsonOption = False,
) -> None:
    """Name what photos show.

    A photo that cannot be read is named, the others are still answered, and the exit code is 2.
    """
    import sys

    from clipstill.runtime import load_bundle

    classifier = load_bundle(bundle, model=model)
    answers: list[dict[str, object]] = []
    failures: list[str] = []
    for photo in photos:
        try:
            (found,) = classifier.answer([photo], top=top)
        except DataError as error:
            failures.append(str(error))
            answers.append({"photo": str(photo), "error": str(error)})
            if len(photos) > 1 and not as_json:
                print(f"skipped: {plain(str(error))}", file=sys.stderr)
            continue
        answers.append(
            {
                "photo": str(photo),
                "refused": found.refused,
                "predictions": [{"label": each.label, "score": each.score} for each in found.predictions],
            }
        )
        if not as_json:
            named = ", ".join(f"{each.label} {100 * each.score:.1f} %" for each in found.predictions)
            print(f"{plain(str(photo))}: " + (f"none of these (most like {named})" if found.refused else named))
    if as_json:
        print_json(answers)
    if failures:
        raise ClipstillError(
            failures[0] if len(photos) == 1 else f"{len(failures)} of {len(photos)} photos could not be read."
        )
