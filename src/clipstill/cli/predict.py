"""``clipstill predict``: name what photos show, with an exported bundle."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from clipstill.cli import options
from clipstill.cli.printing import print_json
from clipstill.core.errors import ClipstillError, DataError
from clipstill.core.names import plain
from clipstill.core.paths import user_path

if TYPE_CHECKING:
    from clipstill.runtime import Answer


def predict(
    bundle: options.Source,
    photos: Annotated[
        list[Path], typer.Argument(parser=user_path, metavar="PHOTO...", help="Picture files, or folders of them.")
    ],
    top: Annotated[int, typer.Option("--top", "-k", min=1, help="Classes to show for each photo.")] = 3,
    model: options.Model = "fp32",
    as_json: options.Json = False,
) -> None:
    """Name what photos show.

    Of a folder all photos in it and below are answered, in order of their paths. A photo that cannot be read is named,
    the others are still answered, and the exit code is 2.
    """
    from clipstill.runtime import load_bundle

    classifier = load_bundle(bundle, model=model)
    photos = [photo for path in photos for photo in _photos_of(path)]
    answers: list[dict[str, object]] = []
    failures: list[str] = []
    for photo in photos:
        name = plain(photo)
        try:
            (answer,) = classifier.answer([photo], top=top)
        except DataError as error:
            failures.append(str(error))
            answers.append({"photo": name, "error": str(error)})
            if len(photos) > 1 and not as_json:
                print(f"skipped: {error}", file=sys.stderr)
            continue
        answers.append({"photo": name, **asdict(answer)})
        if not as_json:
            print(f"{name}: {_sentence(answer)}")
    if as_json:
        print_json(answers)
    if failures:
        raise ClipstillError(
            failures[0] if len(photos) == 1 else f"{len(failures)} of {len(photos)} photos could not be read."
        )


def _photos_of(path: Path) -> list[Path]:
    """The photo; of a folder all photos in it and below, in order."""
    from clipstill.core.image_folder import ImageFolder

    return [photo for photo, _ in ImageFolder.without_labels(path).items] if path.is_dir() else [path]


def _sentence(answer: Answer) -> str:
    named = ", ".join(f"{each.label} {100 * each.score:.1f} %" for each in answer.predictions)
    return f"none of these (most like {named})" if answer.refused else named
