"""Options that several verbs share, each declared once."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from clipstill.core.errors import ConfigError, ResourceError
from clipstill.core.paths import user_path
from clipstill.core.progress import warnings_only


def path(*names: str, **more: Any) -> Any:
    """An option that is a path, in which ``~`` is the home folder."""
    return typer.Option(*names, parser=user_path, metavar="PATH", **more)


_IMAGES = path("--images", help="Real photos to measure on: one sub-folder a class.")

# Places.
_SOURCE_HELP = "A run folder, a bundle, or one on the Hugging Face Hub: hf:USER/NAME or hf:USER/NAME@REVISION."
Source = Annotated[Path, typer.Argument(parser=user_path, metavar="RUN_OR_BUNDLE", help=_SOURCE_HELP)]
RunFolder = Annotated[Path, typer.Argument(parser=user_path, metavar="RUN", help="A run folder.")]
OutBundle = Annotated[Path, path("--out", "-o", help="The new bundle.")]
Images = Annotated[Path | None, _IMAGES]
Photos = Annotated[
    Path | None,
    typer.Argument(parser=user_path, metavar="[PHOTOS]", help="Real photos to measure on: as --images."),
]
Examples = Annotated[
    Path | None,
    path("--examples", help="Labelled photos of some or all classes to learn from: one sub-folder a class."),
]
Unlabelled = Annotated[
    Path | None,
    path("--unlabelled", help="Photos without labels to learn from; sub-folders may have any name."),
]
AllowUnmatched = Annotated[
    bool | None,
    typer.Option(
        "--allow-unmatched", help="Go on where a class has no photo and a folder nearly has its name, as cats for cat."
    ),
]
PerClass = Annotated[int | None, typer.Option("--per-class", min=1, help="Most examples of a class; all if left out.")]

Port = Annotated[int, typer.Option("--port", min=0, max=65535, help="0 takes any that is free.")]

# What to make, and of which parts.
ClassWords = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[CLASS]...", help='Class names, dog cat or "dog,cat", or a file or folder of them: as --classes.'
    ),
]
_CLASSES_HELP = (
    'Class names, "dog,elephant"; a file of them (.txt, .csv, .yaml or .json, such as data.yaml or dataset_info.json, '
    "Label Studio's .xml); or a folder with one sub-folder a class."
)
Classes = Annotated[str, typer.Option("--classes", "-c", help=_CLASSES_HELP)]
Teacher = Annotated[str | None, typer.Option("--teacher", help="See: clipstill list teachers.")]
Generator = Annotated[
    str | None, typer.Option("--generator", help="See: clipstill list generators. Joined by +, they take turns.")
]
Student = Annotated[str | None, typer.Option("--student", help="See: clipstill list students.")]
Model = Annotated[
    str, typer.Option("--format", help="Which model of the bundle: fp32, fp16, int8 or a further format, as openvino.")
]

# Settings.
Recipe = Annotated[str, typer.Option("--recipe", help="A shipped recipe (clipstill list recipes) or a YAML file.")]
ConfigFile = Annotated[Path | None, path("--config", help="A YAML file of settings; wins over the recipe.")]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="One setting, such as synthesis.steps=40; may be repeated."),
]
Budget = Annotated[
    str | None, typer.Option("--budget", help="Time that the whole run may take, such as 30min: chooses the settings.")
]
Seed = Annotated[int | None, typer.Option("--seed", help="Seed of everything random.")]
Device = Annotated[str | None, typer.Option("--device", help="auto, cpu, cuda, cuda:1 or mps.")]

Json = Annotated[bool, typer.Option("--json", help="Print one JSON value instead of a table.")]
# The callback does all that --quiet asks, so no verb reads its value.
Quiet = Annotated[
    bool,
    typer.Option(
        "--quiet",
        "-q",
        callback=lambda wanted: warnings_only() if wanted else None,
        help="No progress on standard error.",
    ),
]


@contextmanager
def extra(name: str) -> Iterator[None]:
    """Import what an extra of clipstill installs; a ResourceError names what is missing."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise ResourceError(f"{error.name} is not installed. Run: pip install 'clipstill[{name}]'") from None


def classes_of(words: list[str] | None, classes: str) -> str | list[str]:
    """The class names of a verb, which stand behind it or in ``--classes``."""
    if not words:
        return classes
    if classes:
        raise ConfigError(
            f"'{words[0]}' stands beside --classes. An option takes one value: quote one with spaces or commas, and "
            'name all classes in one place: --classes "dog,sea horse".'
        )
    # The shell has cut "dog, cat" into two words; a description may hold commas of its own.
    return words if len(words) > 1 and ":" in "".join(words) else ",".join(word.strip(",; ") for word in words)


def photos_of(photos: Path | None, images: Path | None, example: str) -> Path:
    """The photos to measure on, which stand behind the run or in ``--images``."""
    if photos is not None and images is not None:
        raise ConfigError(f"{images} and {photos} are both given: give one folder, not all in it.")
    found = photos or images
    if found is None:
        raise ConfigError(f"no photos are given. Name a folder with one sub-folder a class: {example}")
    return found


def shared(context: typer.Context, kind: type) -> dict[str, Any]:
    """The options of a verb that a class of the API's options, such as ``RunOptions``, has too."""
    return {name: value for name, value in context.params.items() if name in kind.__annotations__}


def with_flags(overrides: list[str] | None, flags: Mapping[str, object]) -> list[str]:
    """Settings of ``--set``, then those of flags by their dotted names, which win; None says nothing."""
    # JSON's quotes keep a text a text: a device or an address of digits is none of YAML's numbers.
    given = {name: json.dumps(value, ensure_ascii=False) for name, value in flags.items() if value is not None}
    return [*(overrides or ()), *(f"{name}={value}" for name, value in given.items())]
