"""``clipstill predict``: name what photos show, with an exported bundle."""

from __future__ import annotations

import csv
import io
import operator
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clipstill.cli import options
from clipstill.cli.printing import print_json, silence_output
from clipstill.core.errors import ClipstillError, ConfigError, DataError
from clipstill.core.names import NONE_OF_THESE, plain
from clipstill.core.paths import user_path
from clipstill.core.progress import percent
from clipstill.core.threads import ahead_or_error

if TYPE_CHECKING:
    from clipstill.runtime import Answer

_RUNS = Path("runs")  # Where a run lands whose folder is not named.


def predict(
    bundle: options.Source,
    photos: Annotated[
        list[Path] | None,
        typer.Argument(parser=user_path, metavar="PHOTO...", help="Picture files, or folders of them."),
    ] = None,
    top: Annotated[int, typer.Option("--top", "-k", min=1, help="Classes to show for each photo.")] = 3,
    table: Annotated[
        Path | None, options.path("--csv", help="Also write all answers as a table, the most doubtful first.")
    ] = None,
    model: options.Model = "fp32",
    as_json: options.Json = False,
) -> None:
    """Name what photos show.

    Of a folder all photos in it and below are answered, in order of their paths. A photo that cannot be read is named,
    the others are still answered, and the exit code is 2.

    clipstill predict runs/zoo photo.jpg
    """
    from clipstill.runtime import load_bundle

    if os.path.isfile(bundle):  # noqa: PTH113 - Path.is_file raises for long names
        raise ConfigError(_turned_round(bundle, photos or ()))
    classifier = load_bundle(bundle, model=model)
    if not photos:
        raise ConfigError(f"no photo is given. Name some behind the run: clipstill predict {bundle} photo.jpg")
    photos = [photo for path in photos for photo in _photos_of(path)]
    answers: list[dict[str, Any]] = []
    failures: list[str] = []
    for photo, pixels_HW3 in zip(photos, ahead_or_error(classifier.pixels, photos), strict=True):
        name = plain(photo)
        if isinstance(pixels_HW3, DataError):
            failures.append(str(pixels_HW3))
            answers.append({"photo": name, "error": str(pixels_HW3)})
            if len(photos) > 1 and not as_json:
                print(f"skipped: {pixels_HW3}", file=sys.stderr)
            continue
        (answer,) = classifier.answer_pixels(pixels_HW3[None], top)
        answers.append({"photo": name, **answer.to_json()})
        if not as_json:
            _say(f"{name}: {_sentence(answer)}", is_needed=table is None)
    if table is not None:
        _write_table(table, answers)
    if as_json:
        print_json(answers)
    if failures:
        raise ClipstillError(
            failures[0] if len(photos) == 1 else f"{len(failures)} of {len(photos)} photos could not be read."
        )


def _say(line: str, *, is_needed: bool) -> None:
    """Print a line; where no more than the table is needed, the reader of standard output may have left."""
    try:
        print(line)
    except BrokenPipeError:
        if is_needed:
            raise
        silence_output()


def _turned_round(photo: Path, others: Sequence[Path]) -> str:
    """What to type where a photo stands in the place of the run."""
    runs = sorted(_RUNS.glob("*/bundle"), key=lambda path: path.stat().st_mtime)
    run = next((path for path in others if path.is_dir()), runs[-1].parent if runs else None)
    made = "" if run else ' (make one: clipstill run "dog,cat")'
    return f"{photo} is not a clipstill bundle. The run comes first: clipstill predict {run or 'RUN'} {photo}{made}"


def _photos_of(path: Path) -> list[Path]:
    """The photo; of a folder all photos in it and below, in order."""
    from clipstill.core.image_folder import ImageFolder

    return [photo for photo, _ in ImageFolder.without_labels(path).items] if path.is_dir() else [path]


def _sentence(answer: Answer) -> str:
    named = ", ".join(f"{each.label} {percent(each.score)}" for each in answer.predictions)
    return f"{NONE_OF_THESE} (most like {named})" if answer.refused else named


def _write_table(file: Path, answers: Sequence[dict[str, Any]]) -> None:
    from clipstill.core.files import write_text

    lines = io.StringIO()
    writer = csv.writer(lines, lineterminator="\n")
    writer.writerow(("path", "answer", "best_guess", "probability", "refused"))
    for each in sorted((each for each in answers if "error" not in each), key=operator.itemgetter("score")):
        said, refused = each["label"] or NONE_OF_THESE, "yes" if each["refused"] else "no"
        writer.writerow((each["photo"], said, each["predictions"][0]["label"], f"{each['score']:.4f}", refused))
    write_text(file, lines.getvalue())
