"""``clipstill settings``: every setting with its value, where that comes from, and what it means."""

from __future__ import annotations

import json
import textwrap
from typing import Annotated, Any

import typer

from clipstill.cli import options
from clipstill.cli.printing import print_json, print_text

_WIDTH = 110


def settings(
    section: Annotated[
        str,
        typer.Argument(help="A section such as synthesis or a setting such as synthesis.steps; all if left out."),
    ] = "",
    recipe: options.Recipe = "default",
    config: options.ConfigFile = None,
    overrides: options.Overrides = None,
    seed: options.Seed = None,
    device: options.Device = None,
    as_json: options.Json = False,
) -> None:
    """Show every setting: its value, where the value comes from, what it means and what it may be.

    Values come from the defaults, a recipe, a file, --set or a flag of their own; the later ones win:

    clipstill settings synthesis --recipe ovc --set synthesis.steps=100
    """
    from clipstill.workflow.recipes import load_with_origins

    flags = {name: value for name, value in {"seed": seed, "device": device}.items() if value is not None}
    rows = _rows(load_with_origins(recipe, config, overrides or [], flags), section)
    if as_json:
        print_json(rows)
        return
    for row in rows:
        may_be = ", ".join(text for text in (row["type"], row["range"]) if text)
        print_text(f"{row['name']} = {_shown(row['value'])}  ({row['origin']})")
        text = f"{row['description']} [{may_be}; default {_shown(row['default'])}]"
        print(textwrap.fill(text, _WIDTH, initial_indent="    ", subsequent_indent="    "))


def _rows(loaded: Any, section: str) -> list[dict[str, Any]]:
    from dataclasses import asdict

    from clipstill.core.config import dotted
    from clipstill.core.config_fields import declared
    from clipstill.core.errors import ConfigError, did_you_mean
    from clipstill.workflow.settings import Settings

    values = dict(dotted(loaded.settings.model_dump(mode="json")))
    rows = [
        {"value": values[each.name], "origin": loaded.origins.get(each.name, "default"), **asdict(each)}
        for each in declared(Settings)
        if not section or each.name == section or each.name.startswith(f"{section}.")
    ]
    if not rows:
        known = list(Settings.model_fields)
        raise ConfigError(
            f"there is no setting or section '{section}'.{did_you_mean(section, known)} There are: {', '.join(known)}."
        )
    return rows


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
