"""``clipstill list``: what can be plugged in where."""

from __future__ import annotations

from importlib import import_module
from typing import Annotated, Literal

import typer

from clipstill.cli import options
from clipstill.cli.printing import print_json

Kind = Literal["teachers", "generators", "students", "prompts", "formats", "recipes"]
# Kind -> module and name of its registry.
_REGISTRIES = {
    "teachers": ("clipstill.teachers", "teachers"),
    "generators": ("clipstill.generators", "generators"),
    "students": ("clipstill.students", "students"),
    "prompts": ("clipstill.text", "prompt_strategies"),
    "formats": ("clipstill.export", "formats"),
}


def list_parts(kind: Annotated[Kind, typer.Argument(help="What to list.")], as_json: options.Json = False) -> None:
    """List the parts by name.

    Those of installed extensions are among them.
    """
    names = _names(kind)
    if as_json:
        print_json(names)
    else:
        print("\n".join(names))


def _names(kind: Kind) -> list[str]:
    if kind == "recipes":
        from clipstill.workflow.recipes import recipe_names

        return recipe_names()
    module, registry = _REGISTRIES[kind]
    names: list[str] = getattr(import_module(module), registry).names()
    return [*names, "tower:TEACHER"] if kind == "students" else names
