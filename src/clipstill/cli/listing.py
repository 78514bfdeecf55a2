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
    "teachers": ("teachers", "teachers"),
    "generators": ("generators", "generators"),
    "students": ("students", "students"),
    "prompts": ("text", "prompt_strategies"),
    "formats": ("export", "formats"),
}


def list_parts(kind: Annotated[Kind, typer.Argument(help="What to list.")], as_json: options.Json = False) -> None:
    """List the parts by name.

    Those of installed extensions are among them.
    """
    if kind == "recipes":
        from clipstill.workflow.recipes import recipe_names

        names = recipe_names()
    else:
        module, registry = _REGISTRIES[kind]
        names = getattr(import_module(f"clipstill.{module}"), registry).names()
    if kind == "students":
        names = [*names, "tower:TEACHER"]
    if as_json:
        print_json(names)
    else:
        print("\n".join(names))
