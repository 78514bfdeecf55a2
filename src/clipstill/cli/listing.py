"""``clipstill list``: what can be plugged in where."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from clipstill.cli import options
from clipstill.cli.printing import print_json, print_table

if TYPE_CHECKING:
    from clipstill.core.registry import Part

Kind = Literal["teachers", "students", "generators", "prompts", "formats", "recipes"]
# Kind -> module and name of its registry; recipes are files.
_REGISTRIES = {
    "teachers": ("teachers", "teachers"),
    "students": ("students", "students"),
    "generators": ("generators", "generators"),
    "prompts": ("text", "prompt_strategies"),
    "formats": ("export", "formats"),
    "recipes": ("", ""),
}


def list_parts(
    kind: Annotated[Kind | None, typer.Argument(help="What to list; all if left out.")] = None,
    as_json: options.Json = False,
) -> None:
    """List the parts by name: how large they are, under which licence, and when to take them.

    Those of installed extensions are among them.
    """
    kinds = _REGISTRIES if kind is None else [kind]
    found = {each: _parts(each) for each in kinds}
    if as_json:
        rows = {each: [{"name": name, **_facts(part)} for name, part in of.items()] for each, of in found.items()}
        print_json(rows if kind is None else rows[kind])
        return
    for each, of in found.items():
        facts = {name: _facts(part) for name, part in of.items()}
        columns = [one for one in ("size", "licence", "take it when") if any(row[one] for row in facts.values())]
        print_table(
            [(each, *columns), *((name, *(row[one] for one in columns)) for name, row in facts.items())], indent=""
        )
        if kind is None:
            print()


def _facts(part: Part) -> dict[str, str]:
    return {"size": part.size, "licence": part.licence, "take it when": part.take_it_when}


def _parts(kind: str) -> dict[str, Part]:
    from clipstill.core.registry import Part

    if kind == "recipes":
        from clipstill.workflow.recipes import recipe_names, recipe_path, recipe_purpose

        return {name: Part(str(recipe_path(name)), recipe_purpose(name)) for name in recipe_names()}
    module, registry = _REGISTRIES[kind]
    found: dict[str, Part] = getattr(import_module(f"clipstill.{module}"), registry).parts()
    if kind == "students":
        found["tower:TEACHER"] = Part(
            "", "the student is a teacher's own image tower", "of the tower", "of the teacher"
        )
    return found
