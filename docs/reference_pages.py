"""Make the reference pages of the command line and of the settings from the code.

A hook of mkdocs: ``on_files`` adds both pages to the site. Nothing heavy is imported.
"""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Iterable, Iterator
from typing import Any

import typer

from clipstill.cli.main import COMMAND
from clipstill.core.config_fields import Declared, declared, is_section_type
from clipstill.workflow.settings import Settings


def on_files(files: Any, config: Any) -> Any:
    """Called by mkdocs once it knows the files of the site."""
    from mkdocs.structure.files import File

    for name, make in (("cli", cli_reference), ("settings", settings_reference)):
        files.append(File.generated(config, f"reference/{name}.md", content=make()))
    return files


def cli_reference() -> str:
    """Every verb with its options, as ``--help`` has them."""
    lines = [
        "# Command line",
        "",
        "Made from the program itself: what `clipstill VERB --help` says. Results go to standard output, everything "
        "else to standard error. A mistake is one line and exit code 2; Ctrl-C is one line and 130, and the same "
        "command goes on where it stopped.",
        "",
    ]
    for context in _verbs(typer.Context(COMMAND, info_name="clipstill")):
        lines += _verb(context)
    return "\n".join(lines) + "\n"


def _verbs(context: Any) -> Iterator[Any]:
    """The context of every verb, those of groups such as ``weights import`` among them."""
    command = context.command
    names = command.list_commands(context) if hasattr(command, "list_commands") else []
    for name in names:
        child = command.get_command(context, name)
        yield from _verbs(type(context)(child, info_name=name, parent=context))
    if not names:
        yield context


def _verb(context: Any) -> list[str]:
    command = context.command
    usage = " ".join(command.get_usage(context).removeprefix("Usage: ").split())
    lines = [f"## {context.command_path}", "", "```text", usage, "```", ""]
    for paragraph in re.split(r"\n\s*\n", inspect.cleandoc(command.help or "")):
        if paragraph.lstrip().startswith("\b"):  # Typer's mark of lines that are not to be joined.
            head, *rest = paragraph.lstrip("\b \n").splitlines()
            lines += [head.strip(), "", "```text", *(line.strip() for line in rest), "```", ""]
            continue
        text = " ".join(paragraph.split())
        example = text.startswith(("clipstill ", "torchrun ", "python "))
        lines += [*(["```text", text, "```"] if example else [text]), ""]
    records = [record for each in command.get_params(context) if (record := each.get_help_record(context))]
    lines += ["| | |", "|---|---|"]
    lines += [f"| `{' '.join(name.split())}` | {_cell(text)} |" for name, text in records]
    return [*lines, ""]


def settings_reference() -> str:
    """Every setting: its section, its default, its type and range, and its meaning."""
    lines = [
        "# Settings",
        "",
        "Made from the settings' own models. Give another value with `--set SECTION.NAME=VALUE`, in a file for "
        "`--config`, or in a recipe; the later ones win. `clipstill settings` shows the values of a run and where they "
        "come from.",
        "",
    ]
    single = [each for each in declared(Settings) if "." not in each.name]
    lines += ["## At the top", "", *_table(single), ""]
    for name, field in Settings.model_fields.items():
        if is_section_type(field.annotation):
            first_line = inspect.cleandoc(field.annotation.__doc__ or "").split("\n\n")[0].replace("\n", " ")
            lines += [f"## {name}", "", first_line, "", *_table(declared(field.annotation, f"{name}.")), ""]
    return "\n".join(lines) + "\n"


def _table(settings: Iterable[Declared]) -> list[str]:
    lines = ["| setting | default | type | range | meaning |", "|---|---|---|---|---|"]
    for each in settings:
        default = each.default if isinstance(each.default, str) else json.dumps(each.default)
        cells = (f"`{each.name}`", f"`{default}`", *map(_cell, (each.type, each.range, each.description)))
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _cell(text: str) -> str:
    return " ".join(text.replace("``", "`").split()).replace("|", "\\|").replace("\\\\|", "\\|")
