from pathlib import Path
from typing import Any

import pytest

import clipstill
from clipstill import api
from clipstill.commands.run import Job
from clipstill.text.task import parse_task


@pytest.fixture
def jobs(monkeypatch: pytest.MonkeyPatch) -> list[Job]:
    """What reaches the pipeline."""
    found: list[Job] = []
    monkeypatch.setattr("clipstill.commands.run.run", lambda job, **_: found.append(job))
    return found


def distil(**options: Any) -> None:
    clipstill.distil(classes=["dog", "cat"], **options)


def test_arguments_win_over_settings_and_recipe(jobs: list[Job], tmp_path: Path) -> None:
    (tmp_path / "photos" / "dog").mkdir(parents=True)
    (tmp_path / "photos" / "dog" / "1.jpg").write_bytes(b"x")
    distil(
        out=Path("runs/x"),
        recipe="ovc",
        settings={"student": {"name": "resnet18", "image_size": 96}, "seed": 1},
        student="lite2",
        teacher="embedded-m",
        generator="embedded",
        images=tmp_path / "photos",
        seed=7,
        device="cpu",
    )
    (job,) = jobs
    config = job.settings
    assert (config.student.name, config.student.image_size) == ("lite2", 96)
    assert (config.teacher.name, config.generator.name) == ("embedded-m", "embedded")
    assert config.synthesis.steps == 400  # the recipe's
    assert (config.seed, config.device) == (7, "cpu")
    assert config.evaluation.images == (tmp_path / "photos").resolve()
    assert (job.task.names, job.out) == (("dog", "cat"), Path("runs/x"))


def test_texts_and_nested_values_say_the_same(jobs: list[Job]) -> None:
    distil(out="x", settings=["synthesis.steps=3"])
    distil(out="x", settings={"synthesis": {"steps": 3}})
    assert jobs[0].settings == jobs[1].settings
    assert jobs[0].settings.synthesis.steps == 3


def test_default_folder_tells_the_classes_and_differs_by_them() -> None:
    first = api.default_out(parse_task("sea lion,crane: a bird,dog,cat"))
    assert first.parent == Path("runs")
    assert first.name.startswith("sea_lion-crane-dog-")
    assert first == api.default_out(parse_task("sea lion,crane: a bird,dog,cat"))
    assert first != api.default_out(parse_task("sea lion,crane: a machine,dog,cat"))


def test_every_public_name_is_there() -> None:
    assert all(getattr(clipstill, name) is not None for name in clipstill.__all__)
