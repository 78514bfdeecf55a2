"""Settings from recipes, files and overrides, the later ones winning."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from clipstill.core.config import apply_overrides, dotted, load_yaml, merge, validate
from clipstill.core.errors import ConfigError, UnknownNameError, did_you_mean
from clipstill.core.paths import user_path
from clipstill.workflow.settings import Settings

_FOLDER = Path(str(resources.files("clipstill.recipes")))
# Images a class where more teach nothing (docs/measured.md).
_IMAGES, _FEW = "prompts.images_per_class", 8


@dataclass(frozen=True)
class LoadedSettings:
    """Settings, and where their values come from."""

    settings: Settings
    # Place that each dotted name was set in last: ``recipe NAME``, ``file PATH``, ``--set`` or ``flag``. A setting that
    # is not named has its default.
    origins: Mapping[str, str]

    @property
    def given(self) -> frozenset[str]:
        """Dotted names of the settings that the user gave beside the recipe."""
        return frozenset(name for name, origin in self.origins.items() if not origin.startswith("recipe "))


@dataclass(frozen=True)
class _Layer:
    """Settings from one place: its name for messages (a file's path, so that the line is named too), and for users."""

    where: str | Path
    origin: str
    values: Mapping[str, Any]


def recipe_names() -> list[str]:
    """Names of the recipes that clipstill ships."""
    return sorted(path.stem for path in _FOLDER.glob("*.yaml"))


def recipe_path(name: str) -> Path:
    """The file of a recipe: a shipped one by name, or any YAML file by path."""
    if name in recipe_names():
        return _FOLDER / f"{name}.yaml"
    if name.endswith((".yaml", ".yml")):
        return user_path(name)
    hint = did_you_mean(name, recipe_names())
    raise UnknownNameError(f"no recipe named '{name}'.{hint} All of them: clipstill list recipes")


def recipe_purpose(name: str) -> str:
    """What a shipped recipe is for: its comment up to the first colon."""
    return recipe_path(name).read_text(encoding="utf-8").removeprefix("# ").partition(":")[0]


def load_settings(
    recipe: str = "default", file: Path | None = None, overrides: Sequence[str] = (), **more: Any
) -> Settings:
    """The settings of a run; arguments as for ``load_with_origins``."""
    return load_with_origins(recipe, file, overrides, **more).settings


def load_with_origins(
    recipe: str = "default",
    file: Path | None = None,
    overrides: Sequence[str] = (),
    values: Mapping[str, Any] | None = None,
    layout: str | None = None,
) -> LoadedSettings:
    """Put the settings of a run together.

    Order, later wins: the defaults, the recipe that ``recipe`` extends (a key of its file), ``recipe``, what it sets
    otherwise for ``layout``, ``file``, ``overrides``, ``values``.

    Args:
        recipe: A shipped name or a YAML file.
        file: A YAML file of settings.
        overrides: Texts such as ``synthesis.steps=40``.
        values: Nested settings, from flags and arguments of their own.
        layout: Name of a published data set's layout, see ``clipstill.datasets``.

    Raises:
        ConfigError: A key or a value is wrong; the message names where it was given.
        UnknownNameError: No such recipe.
    """
    layers = _recipe_layers(recipe, layout)
    if file is not None:
        layers.append(_Layer(file, f"file {file}", load_yaml(file)))
    if overrides:
        layers.append(_Layer("--set", "--set", apply_overrides({}, overrides)))
    if values:
        layers.append(_Layer("the arguments", "flag", values))
    settings = Settings()
    merged: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for layer in layers:
        merged = merge(merged, layer.values)
        # Checked one after the other, so that a message names the place in which the mistake stands.
        settings = validate(Settings, merged, layer.where)
        origins |= dict.fromkeys((name for name, _ in dotted(layer.values)), layer.origin)
    if settings.begins_with_teacher and _IMAGES not in origins:
        settings = settings.changed(**{_IMAGES: _FEW})
        origins[_IMAGES] = f"recipe {recipe} for a student that begins with what its teacher knows"
    return LoadedSettings(settings, origins)


def _recipe_layers(recipe: str, layout: str | None, extended_by: tuple[str, ...] = ()) -> list[_Layer]:
    """What a recipe says, after the one that it extends, and what it sets otherwise for a data set."""
    path = recipe_path(recipe)
    if recipe in extended_by:
        raise ConfigError(
            f"{path} extends itself ({' -> '.join((*extended_by, recipe))}). Let one of them stand alone."
        )
    values = load_yaml(path)
    extended = values.pop("extends", None)
    layers = [] if extended is None else _recipe_layers(str(extended), layout, (*extended_by, recipe))
    layers.append(_Layer(path, f"recipe {recipe}", values))
    by_layout = _FOLDER / "datasets" / f"{recipe}.yaml"
    if layout is not None and by_layout.is_file():
        layers.append(_Layer(by_layout, f"recipe {recipe} for {layout}", load_yaml(by_layout).get(layout, {})))
    return layers
