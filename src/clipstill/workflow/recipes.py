"""Settings from recipes, files and overrides, the later ones winning."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from clipstill.core.config import apply_overrides, load_yaml, merge, validate
from clipstill.core.errors import ConfigError, UnknownNameError, did_you_mean
from clipstill.workflow.settings import RunConfig

_FOLDER = Path(str(resources.files("clipstill.recipes")))


def recipe_names() -> list[str]:
    """Names of the recipes that clipstill ships."""
    return sorted(path.stem for path in _FOLDER.glob("*.yaml"))


def recipe_path(name: str) -> Path:
    """The file of a recipe: a shipped one by name, or any YAML file by path.

    Raises:
        UnknownNameError: neither.
    """
    shipped = _FOLDER / f"{name}.yaml"
    if name in recipe_names():
        return shipped
    if name.endswith((".yaml", ".yml")):
        return Path(name)
    hint = did_you_mean(name, recipe_names())
    raise UnknownNameError(f"no recipe named '{name}'.{hint} All of them: clipstill list recipes")


def load_config(
    recipe: str = "default",
    file: Path | None = None,
    overrides: Sequence[str] = (),
    values: Mapping[str, Any] | None = None,
    layout: str | None = None,
) -> RunConfig:
    """Put the settings of a run together.

    Order, later wins: the recipe ``default``, the one that ``recipe`` extends (a key of its file), ``recipe``, what it
    sets otherwise for ``layout``, ``file``, ``overrides``, ``values``.

    Args:
        recipe: a shipped name or a YAML file.
        file: a YAML file of settings.
        overrides: texts such as ``synthesis.steps=40``.
        values: nested settings, from flags and arguments of their own.
        layout: of a published data set, see ``clipstill.datasets``.

    Raises:
        ConfigError: a key or a value is wrong; the message names where it was given.
        UnknownNameError: no such recipe.
    """
    settings = load_yaml(recipe_path("default"))
    config = validate(RunConfig, settings, recipe_path("default"))
    layers = _layers(recipe, layout) if recipe != "default" else []
    if file is not None:
        layers.append((file, load_yaml(file)))
    for path, layer in layers:
        settings = merge(settings, layer)
        # Checked one after the other, so that a message names the file in which the mistake stands.
        config = validate(RunConfig, settings, path)
    if overrides:
        settings = apply_overrides(settings, overrides)
        config = validate(RunConfig, settings, "--set")
    if values:
        settings = merge(settings, values)
        config = validate(RunConfig, settings, "the arguments")
    return config


def _layers(recipe: str, layout: str | None, extended_by: tuple[str, ...] = ()) -> list[tuple[Path, dict[str, Any]]]:
    """What a recipe says, after the one that it extends, and what it sets otherwise for a data set."""
    path = recipe_path(recipe)
    if recipe in extended_by:
        raise ConfigError(
            f"{path} extends itself ({' -> '.join((*extended_by, recipe))}). Let one of them stand alone."
        )
    settings = load_yaml(path)
    extended = settings.pop("extends", None)
    layers = [] if extended is None else _layers(str(extended), layout, (*extended_by, recipe))
    layers.append((path, settings))
    by_layout = _FOLDER / "datasets" / f"{recipe}.yaml"
    if layout is not None and by_layout.is_file():
        layers.append((by_layout, load_yaml(by_layout).get(layout, {})))
    return layers
