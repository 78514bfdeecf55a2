"""Makes the reference pages that nobody writes by hand: the command line and the settings.

A hook of mkdocs: ``on_files`` adds both pages to the site. Nothing heavy is imported.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pydantic
import typer

from clipstill.cli.main import app
from clipstill.core.config import load_yaml
from clipstill.distillation.prompt_settings import PromptTuningSettings
from clipstill.distillation.settings import DistilSettings
from clipstill.synthesis.settings import SynthesisSettings
from clipstill.text.settings import PromptSettings
from clipstill.workflow.recipes import recipe_path
from clipstill.workflow.settings import RunConfig

# What a section's fields mean stands beside the part that they are handed to.
PARTS = {
    "synthesis": SynthesisSettings,
    "distillation": DistilSettings,
    "prompt_teacher": PromptTuningSettings,
    "prompts": PromptSettings,
}
_KEY = re.compile(r"^( *)([a-z_]+):(.*?)(?:\s+#\s*(.*))?$")


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
    for context in _verbs(typer.Context(typer.main.get_command(app), info_name="clipstill")):
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
    """Every setting: its section, its default with the reason for it, its type and its meaning."""
    path = recipe_path("default")
    defaults, reasons = load_yaml(path), _reasons(path)
    lines = [
        "# Settings",
        "",
        "Made from the settings' own classes and from the recipe `default`, in which every one of them stands. Say "
        "another value with `--set SECTION.NAME=VALUE`, in a file for `--config`, or in a recipe; the later ones win.",
        "",
    ]
    single = [name for name, field in RunConfig.model_fields.items() if _section(field) is None]
    lines += ["## At the top", "", *_table(single, RunConfig, {}, defaults, reasons, ""), ""]
    for name, field in RunConfig.model_fields.items():
        section = _section(field)
        if section is None:
            continue
        lines += [f"## {name}", "", _first_line(section), ""]
        meanings = _meanings(PARTS[name]) if name in PARTS else {}
        lines += [*_table(list(section.model_fields), section, meanings, defaults[name], reasons, f"{name}."), ""]
    return "\n".join(lines) + "\n"


def _section(field: Any) -> type[pydantic.BaseModel] | None:
    kind = field.annotation
    return kind if isinstance(kind, type) and issubclass(kind, pydantic.BaseModel) else None


def _first_line(kind: type) -> str:
    return inspect.cleandoc(kind.__doc__ or "").split("\n\n")[0].replace("\n", " ")


def _table(
    names: list[str],
    section: type[pydantic.BaseModel],
    meanings: dict[str, str],
    defaults: dict[str, Any],
    reasons: dict[str, str],
    prefix: str,
) -> list[str]:
    own = {**meanings, **_meanings(section)}
    lines = ["| setting | default | type | meaning | why this default |", "|---|---|---|---|---|"]
    for name in names:
        kind = _cell(_type(section.model_fields[name].annotation))
        value = defaults[name]
        shown = "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
        texts = (_cell(own.get(name, "")), _cell(reasons.get(prefix + name, "")))
        lines.append("| " + " | ".join((f"`{prefix}{name}`", f"`{shown}`", kind, *texts)) + " |")
    return lines


def _type(annotation: Any) -> str:
    text = inspect.formatannotation(annotation).replace("typing.", "")
    text = text.replace("None", "null").replace("pathlib.Path", "path")
    return re.sub(r"Literal\[(.*)\]", lambda found: found.group(1).replace("'", "").replace(", ", " \\| "), text)


def _meanings(kind: type) -> dict[str, str]:
    """Of a class's fields, from the section ``Attributes`` of its docstring."""
    text = inspect.cleandoc(kind.__doc__ or "")
    found: dict[str, str] = {}
    if "Attributes:" not in text:
        return found
    name = ""
    for line in text.split("Attributes:", 1)[1].splitlines():
        start = re.match(r"^    ([a-z_0-9]+): (.*)", line)
        if start:
            name = start.group(1)
            found[name] = start.group(2)
        elif name and line.startswith("        "):
            found[name] += " " + line.strip()
        elif line.strip():
            break
    return found


def _reasons(path: Path) -> dict[str, str]:
    """The comment behind each setting of a recipe, with the lines that go on with it."""
    found: dict[str, str] = {}
    section = last = ""
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.lstrip().startswith("#"):
            if last and line.startswith("  "):
                found[last] = f"{found.get(last, '')} {line.strip().lstrip('# ')}".strip()
            continue
        key = _KEY.match(line)
        if not key:
            last = ""
            continue
        indent, name, value, comment = key.groups()
        section = section if indent else name if not value.strip() else ""
        last = f"{section}.{name}" if indent else name
        if comment:
            found[last] = comment
    return found


def _cell(text: str) -> str:
    return " ".join(text.replace("``", "`").split()).replace("|", "\\|").replace("\\\\|", "\\|")
