"""Chooses the settings that make the best of the time that a run may take."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from clipstill.core.config import dotted, load_yaml, merge, nested
from clipstill.core.files import write_text
from clipstill.workflow.settings import Settings


class _Level(NamedTuple):
    """A level of quality: factors of the recipe's settings."""

    images: float  # Images per class.
    steps: float  # Synthesis steps.
    side: float  # Side of the images.
    training: float  # Training steps.
    all_steps: int = 0  # Training steps of all weights where the recipe trains the head alone; 0 for none.


# Each level is better and takes longer than the one before. Training all weights comes last: a step takes a thousand
# times longer, for two points of accuracy (docs/distillation.md).
_LEVELS = (
    _Level(images=1 / 8, steps=1 / 4, side=2 / 3, training=1 / 4),
    _Level(images=1 / 8, steps=1 / 2, side=2 / 3, training=1 / 2),
    _Level(images=1 / 4, steps=2 / 3, side=2 / 3, training=1),
    _Level(images=1 / 2, steps=2 / 3, side=2 / 3, training=1),
    _Level(images=1 / 2, steps=2 / 3, side=1, training=1),
    _Level(images=3 / 4, steps=1, side=1, training=1),
    _Level(images=1, steps=1, side=1, training=1),
    _Level(images=2, steps=1, side=1, training=1),
    _Level(images=2, steps=1, side=1, training=1, all_steps=80),
    _Level(images=4, steps=1, side=1, training=1, all_steps=160),
    _Level(images=8, steps=1, side=1, training=1, all_steps=640),
)
_HEAD_STEPS = 300
_SIDE_UNIT, _SMALLEST_SIDE, _FEWEST_IMAGES, _FEWEST_STEPS, _FEWEST_TRAINING_STEPS = 32, 64, 2, 5, 100


def choose_settings(
    settings: Settings, seconds: float, fixed: Collection[str], seconds_of: Callable[[Mapping[str, Any]], float]
) -> dict[str, Any]:
    """Choose the best level of quality that fits into a time, or the lowest one where none does.

    Args:
        settings: All settings; the levels are relative to them.
        seconds: Time for the whole run.
        fixed: Dotted names of settings that stay as they are.
        seconds_of: Estimates the seconds of a run from the settings that change, by dotted name.

    Returns:
        Changed settings by dotted name.
    """
    chosen = _changes(settings, _LEVELS[0], fixed)
    for level in _LEVELS[1:]:
        changed = _changes(settings, level, fixed)
        if seconds_of(changed) > seconds:
            break
        chosen = changed
    return chosen


def _changes(settings: Settings, level: _Level, fixed: Collection[str]) -> dict[str, Any]:
    synthesis, distillation = settings.synthesis, settings.distillation
    side = synthesis.image_size
    if level.side < 1:
        side = _scaled(side // _SIDE_UNIT, level.side, _SMALLEST_SIDE // _SIDE_UNIT) * _SIDE_UNIT
    wanted: dict[str, Any] = {
        "prompts.images_per_class": _scaled(settings.prompts.images_per_class, level.images, _FEWEST_IMAGES),
        "synthesis.steps": _scaled(synthesis.steps, level.steps, _FEWEST_STEPS),
        "synthesis.image_size": side,
        "distillation.steps": _scaled(distillation.steps, level.training, _FEWEST_TRAINING_STEPS),
    }
    of_training = {"distillation.steps", "distillation.freeze", "distillation.head_steps", "distillation.minutes"}
    if distillation.minutes or distillation.epochs:
        del wanted["distillation.steps"]
    elif level.all_steps and distillation.freeze == "backbone" and not of_training & set(fixed):
        wanted |= {
            "distillation.freeze": "bn",
            "distillation.head_steps": _HEAD_STEPS,
            "distillation.steps": level.all_steps,
        }
    now = dict(dotted(settings.model_dump()))
    return {name: value for name, value in wanted.items() if name not in fixed and value != now[name]}


def _scaled(value: int, factor: float, least: int) -> int:
    """A multiple of a count, not below ``least`` unless the count was below it already."""
    return max(min(value, least), round(value * factor))


def write_settings(settings: Mapping[str, Any], config_file: Path | None, out: Path) -> None:
    """Write a file for ``--config``: new values by dotted name on top of those of ``config_file``.

    Raises:
        ConfigError: ``config_file`` cannot be read.
        ResourceError: The disk is full or not writable.
    """
    import yaml

    values = {} if config_file is None else load_yaml(config_file)
    for name, value in settings.items():
        values = merge(values, nested(name, value))
    write_text(out, yaml.safe_dump(values, sort_keys=False, allow_unicode=True) if values else "{}\n")
