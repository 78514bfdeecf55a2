"""``clipstill list``: what can be plugged in where."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from clipstill.cli.options import JsonOption, print_json


class Kind(StrEnum):
    """What can be listed."""

    teachers = "teachers"
    generators = "generators"
    students = "students"
    prompts = "prompts"
    formats = "formats"
    recipes = "recipes"


def list_parts(
    kind: Annotated[Kind, typer.Argument(help="What to list.")],
    as_json: JsonOption = False,
) -> None:
    """List the parts by name.

    Those of installed extensions are among them.
    """
    names = part_names(kind)
    if as_json:
        print_json(names)
    else:
        for name in names:
            print(name)


def part_names(kind: Kind) -> list[str]:
    """All names of a kind, those of installed extensions included."""
    if kind is Kind.teachers:
        from clipstill.teachers import teachers

        return teachers.names()
    if kind is Kind.generators:
        from clipstill.generators import generators

        return generators.names()
    if kind is Kind.students:
        from clipstill.students import students

        return [*students.names(), "tower:TEACHER"]
    if kind is Kind.prompts:
        from clipstill.text import prompt_strategies

        return prompt_strategies.names()
    if kind is Kind.formats:
        from clipstill.export import formats

        return formats.names()
    from clipstill.workflow.recipes import recipe_names

    return recipe_names()
