"""Reads settings from YAML and checks them; error messages name the setting and the line."""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Self, TypeVar

import pydantic
import yaml

from clipstill.core.config_fields import is_section_type, misfit, range_text, shown_value
from clipstill.core.errors import ConfigError, did_you_mean
from clipstill.core.file_names import CHECKPOINT_SUFFIXES
from clipstill.core.files import read_text
from clipstill.core.paths import user_path

MANY = 10_000_000  # Upper bound of counts and weights, beyond every sensible value.
_MOST_BYTES = 1 << 20  # A second of reading; settings take a few kilobytes.
_DEEPEST = 10  # Keys of a dotted name; no setting has as many.
_RANGE_ERRORS = ("greater_than", "greater_than_equal", "less_than", "less_than_equal")
SPEED_ONLY: dict[str, Any] = {"result": False}  # Marks a field that does not change results, only where or how fast.


class Config(pydantic.BaseModel):
    """Base of all settings: frozen, unknown keys refused."""

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    def identity(self) -> dict[str, Any]:
        """The settings that results depend on, as JSON values: those that are not marked ``SPEED_ONLY``."""
        values = self.model_dump(mode="json")
        for name, field in type(self).model_fields.items():
            if field.json_schema_extra == SPEED_ONLY:
                del values[name]
            elif isinstance(section := getattr(self, name), Config):
                values[name] = section.identity()
        return values

    def changed(self, **values: Any) -> Self:
        """A copy with other values, checked anew: ``settings.changed(seed=3, **{"synthesis.steps": 40})``."""
        data = self.model_dump()
        for name, value in values.items():
            data = merge(data, nested(name, value))
        return validate(type(self), data, "changed settings")


def absolute(path: Any) -> Any:
    """A path of the settings, made absolute, so that a run goes on from any working folder; other values unchanged."""
    return user_path(path).resolve() if isinstance(path, str | Path) else path


def absolute_parts(names: str) -> str:
    """Names of parts joined by ``+``, with the paths of files and folders in them made absolute.

    ``vqgan:weights/``, ``openclip:ARCHITECTURE/weights.pt`` and ``openclip:ARCHITECTURE/TAG/weights.pt`` name paths, in
    which a ``+`` may stand; ``vqgan:NAME`` and ``openclip:ARCHITECTURE/TAG`` do not, whatever the working folder holds.
    """
    parts = names.split("+")
    # The colon of another part ends a path.
    most = next((place for place, part in enumerate(parts) if place and ":" in part), len(parts))
    for count in range(most, 0, -1):
        name = "+".join(parts[:count])
        found = _absolute_part(name)
        if found != name or count == 1:
            break
    rest = "+".join(parts[count:])
    return f"{found}+{absolute_parts(rest)}" if rest else found


def _absolute_part(name: str) -> str:
    before, colon, path = name.rpartition(":")
    places = [(before + colon, path.strip())] if colon else []
    if before.endswith("openclip"):
        architecture, _, path = path.partition("/")
        tag, _, file = path.partition("/")
        places = [(f"{before}:{architecture}/", path), (f"{before}:{architecture}/{tag}/", file)]
    for start, path in places:
        if "/" in path or path.startswith("~") or Path(path).suffix in CHECKPOINT_SUFFIXES:
            found = user_path(path).resolve()
            if found.exists():
                return f"{start}{found}"
    return name


# Read before pydantic's own check, which refuses names that are not UTF-8.
SettingPath = Annotated[Path, pydantic.BeforeValidator(absolute), pydantic.PlainSerializer(str)]
PartName = Annotated[str, pydantic.AfterValidator(absolute_parts)]
ConfigType = TypeVar("ConfigType", bound=Config)


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader with three changes.

    Equal keys are refused, since the second would win silently. Only ``true``, ``false``, ``null`` and plain decimal
    numbers are no text, so that a setting can be the word ``off`` or the name ``007``. Aliases are refused, since
    nested ones can fill all memory.
    """

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
            raise yaml.composer.ComposerError(None, None, "aliases are not read, write the value out", mark)
        node: yaml.Node | None = super().compose_node(parent, index)
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise yaml.constructor.ConstructorError(None, None, "a name must be plain text", key.start_mark)
            if key.value in seen:
                raise yaml.constructor.ConstructorError(None, None, f"key '{key.value}' appears twice", key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


# Tag -> how its scalars look, and their first letters. The patterns of YAML 1.1, which are PyYAML's, read 010 as 8,
# 1_000 as 1000, 1:30 as 90 and 2026-01-31 as a date. A number that is longer than these is text too.
_Loader.yaml_implicit_resolvers = {}
for _tag, _pattern, _first in (
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("int", r"[-+]?(?:0|[1-9]\d{0,99})", "-+0123456789"),
    ("float", r"[-+]?(?:(?:0|[1-9]\d{0,99})\.\d*|\.\d+)(?:[eE][-+]?\d{1,2})?", "-+.0123456789"),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(f"^(?:{_pattern})$", re.A), list(_first))


def load_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML file that holds a mapping; an empty file is an empty mapping.

    Raises:
        ConfigError: The file is missing, not YAML, or not a mapping of names.
    """
    try:
        text = read_text(path, _MOST_BYTES)
    except FileNotFoundError:
        raise ConfigError(f"there is no settings file {path}. Check the path.") from None
    except OSError as error:
        raise ConfigError(
            f"the settings file {path} cannot be read ({error}). It must be a small text in UTF-8."
        ) from None
    try:
        value = _parsed(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = "" if mark is None else f", line {mark.line + 1},"
        raise ConfigError(f"{path}{line} is not valid YAML: {_yaml_problem(error)}.") from None
    if value is None:
        return {}
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise ConfigError(f"{path} must hold settings as 'name: value' lines, not {type(value).__name__} at its top.")
    return value


def _parsed(text: str) -> Any:
    """Parse a YAML text; everything that is wrong with it raises a ``YAMLError``."""
    try:
        return yaml.load(text, _Loader)  # noqa: S506 - _Loader is a SafeLoader
    except RecursionError:
        raise yaml.YAMLError("it is nested too deeply") from None
    except ValueError as error:  # An impossible date or number, such as 2026-99-99.
        raise yaml.YAMLError(str(error)) from None


def _yaml_problem(error: yaml.YAMLError) -> str:
    return str(getattr(error, "problem", None) or error).splitlines()[0]


def validate(model: type[ConfigType], data: Mapping[str, Any], where: str | Path) -> ConfigType:
    """Check settings against their model.

    ``where`` is the origin of the settings for messages; the path of a YAML file makes them name the line too.

    Raises:
        ConfigError: Names the first wrong setting and, for an unknown key, the closest known one.
    """
    _refuse_misfits(model, data, where)
    try:
        return model.model_validate(dict(data))
    except ConfigError as error:  # Raised by a section's own validator.
        raise ConfigError(f"{where}: {error}") from None
    except pydantic.ValidationError as error:
        errors = error.errors(include_url=False)
        # Of "auto, a number or a list", the number's range says more than that -1 is not auto.
        first = next((each for each in errors if each["type"] in _RANGE_ERRORS), errors[0])
    keys, section = _locate(model, [str(part) for part in first["loc"]])
    name = ".".join(keys)
    place = _place(where, keys)
    if first["type"] == "extra_forbidden":
        known = list(section.model_fields)
        hint = did_you_mean(keys[-1], known)
        parent = f"'{'.'.join(keys[:-1])}'" if keys[:-1] else "the settings"
        raise ConfigError(f"{place}: unknown key '{name}'.{hint} Known in {parent}: {', '.join(known)}.") from None
    shown = shown_value(first["input"])
    if first["type"] in _RANGE_ERRORS:
        limits = range_text(section.model_fields[keys[-1]])
        raise ConfigError(f"{place}: {name} is {shown}. It must lie {limits}.") from None
    is_section = first["type"] == "model_type"
    message = "it is a section, give its settings one by one" if is_section else str(first["msg"])
    if first["type"] == "too_short":
        message = f"it must hold at least {first['ctx']['min_length']} item"
    raise ConfigError(f"{place}: {name or 'the settings'} = {shown} cannot be used: {message}.") from None


def _refuse_misfits(
    model: type[pydantic.BaseModel], data: Mapping[str, Any], where: str | Path, above: tuple[str, ...] = ()
) -> None:
    """Refuse values of another kind than the setting's, which pydantic would convert: true to 1, "010" to 10."""
    for key, value in data.items():
        field, keys = model.model_fields.get(key), (*above, key)
        if field is not None and is_section_type(field.annotation):
            if isinstance(value, Mapping):
                _refuse_misfits(field.annotation, value, where, keys)
        elif field is None or (isinstance(value, str) and _reads_texts(field)):
            continue
        elif problem := misfit(field.annotation, value):
            raise ConfigError(f"{_place(where, keys)}: {'.'.join(keys)} {problem}")


def _reads_texts(field: pydantic.fields.FieldInfo) -> bool:
    """Whether a setting makes its value of a text by itself, as ``minutes`` does of ``1h30min``."""
    return any(isinstance(each, pydantic.BeforeValidator) for each in field.metadata)


def _place(where: str | Path, keys: Sequence[str]) -> str:
    return f"{where}{_key_line(where, keys)}" if isinstance(where, Path) else where


def _locate(model: type[pydantic.BaseModel], keys: list[str]) -> tuple[list[str], type[pydantic.BaseModel]]:
    """The keys that lead to a field, and its section. Pydantic adds members of unions and lists after the field."""
    for depth, key in enumerate(keys):
        field = model.model_fields.get(key)
        if field is None or not is_section_type(field.annotation):
            return keys[: depth + 1], model
        model = field.annotation
    return keys, model


def _key_line(path: Path, keys: Sequence[str]) -> str:
    """``", line 12"`` for the innermost of the keys that the file holds."""
    try:
        node = yaml.compose(read_text(path), _Loader)
    except (OSError, yaml.YAMLError, RecursionError):
        return ""
    line: int | None = None
    for wanted in keys:
        if not isinstance(node, yaml.MappingNode):
            break
        found = next(((key, value) for key, value in node.value if key.value == wanted), None)
        if found is None:
            break
        line, node = found[0].start_mark.line + 1, found[1]
    return "" if line is None else f", line {line}"


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """A new mapping: values of ``over`` win, sections are merged key by key."""
    merged = dict(base)
    for key, value in over.items():
        old = merged.get(key)
        merged[key] = merge(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return merged


def apply_overrides(data: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """Apply ``section.key=value`` texts; values are read as YAML.

    Example:
        >>> apply_overrides({"synthesis": {"steps": 60}}, ["synthesis.steps=40"])
        {'synthesis': {'steps': 40}}

    Raises:
        ConfigError: There is no ``=``, an empty name, or a value that is not YAML.
    """
    result = dict(data)
    for text in overrides:
        name, equals, raw = text.partition("=")
        shown = text if len(text) <= 80 else f"{text[:77]}..."
        keys = [key.strip() for key in name.split(".")]
        if not equals or not all(keys) or len(keys) > _DEEPEST:
            raise ConfigError(f"--set '{shown}' is not of the form section.key=value, such as synthesis.steps=40.")
        try:
            value = _parsed(raw)
        except yaml.YAMLError as error:
            raise ConfigError(f"--set '{shown}': the value is not valid YAML: {_yaml_problem(error)}.") from None
        if isinstance(value, str) and re.search(r"\s#", raw) and _parsed(raw.replace("#", "_")) != value:
            raise ConfigError(f"--set '{shown}': ' #' begins a comment. Put quotes around a value that holds it.")
        # "{class}" is a template, but YAML reads it as a mapping from "class" to null.
        is_template = isinstance(value, dict) and value and all(each is None for each in value.values())
        value = raw.strip() if is_template else value
        result = merge(result, nested(".".join(keys), value))
    return result


def nested(name: str, value: Any) -> dict[str, Any]:
    """A dotted name and its value as nested settings: ``a.b`` and 1 become ``{"a": {"b": 1}}``."""
    for key in reversed(name.split(".")):
        value = {key: value}
    result: dict[str, Any] = value
    return result


def dotted(values: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """Nested settings as dotted names and values."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from dotted(value, f"{above}{name}.")
        else:
            yield above + name, value
