"""Timings that a later plan takes over."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
import torch

from clipstill.planning import kept_timings
from clipstill.planning.timings import Timings
from clipstill.text.task import parse_task
from clipstill.workflow.models import Models
from clipstill.workflow.recipes import load_settings

TASK = parse_task("crane,heron")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "clipstill" / "timings"


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[Timings]:
    """What was measured so far, each time with other numbers."""
    found: list[Timings] = []

    def measure(*_: object, **__: object) -> Timings:
        seconds = [len(found) + 0.1 * place for place in range(10)]
        found.append(Timings(*seconds, base_bytes=10, image_size=96))
        return found[-1]

    monkeypatch.setattr(kept_timings, "measure", measure)
    return found


def timings(*changed: str, built: dict[str, object] | None = None, trains_all: bool = False) -> Timings:
    settings = load_settings(overrides=["teacher.name=embedded-s", *changed])
    models = Models(settings, built or {})
    vectors_CD = torch.ones(2, models.teacher.dim)
    return kept_timings.timings_of(settings, TASK, models, class_vectors_CD=vectors_CD, trains_all=trains_all)


def test_the_second_plan_of_an_hour_times_nothing(cache: Path, measured: list[Timings]) -> None:
    first = timings()
    assert timings() == first == measured[0]
    assert len(measured) == 1
    # Neither the photos nor the classes nor the seed make a step slower.
    assert timings("seed=5", "evaluation.ladder=false") == first


@pytest.mark.parametrize(
    "changed", ["synthesis.image_size=64", "student.name=lite2", "distillation.freeze=bn", "deterministic=true"]
)
def test_what_makes_a_step_slower_is_timed_anew(cache: Path, measured: list[Timings], changed: str) -> None:
    assert timings() != timings(changed)
    assert timings(changed, trains_all=True) == measured[2]
    assert len(measured) == 3


def test_old_and_damaged_timings_are_made_again(cache: Path, measured: list[Timings]) -> None:
    timings()
    (kept,) = cache.iterdir()
    long_ago = time.time() - kept_timings.KEPT_S - 10
    os.utime(kept, (long_ago, long_ago))
    assert timings() == measured[1]
    kept.write_text('{"image": "much"}')
    assert timings() == measured[2] == timings()
    # Of a clock that was set back since.
    later = time.time() + kept_timings.KEPT_S + 10
    os.utime(kept, (later, later))
    assert timings() == measured[3]


def test_parts_that_the_caller_built_and_a_missing_cache_are_no_trouble(
    cache: Path, measured: list[Timings], monkeypatch: pytest.MonkeyPatch
) -> None:
    teacher = Models(load_settings(overrides=["teacher.name=embedded-s"])).teacher
    assert timings(built={"teacher": teacher}) != timings(built={"teacher": teacher})
    monkeypatch.setenv("XDG_CACHE_HOME", "http://not/a/path")
    assert timings() != timings()
    assert len(measured) == 4
