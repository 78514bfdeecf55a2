from pathlib import Path

import pytest

from clipstill import api
from clipstill.text.task import Task, parse_task
from clipstill.workflow.settings import Settings


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Settings, Task, Path]]:
    """What reaches the pipeline."""
    calls: list[tuple[Settings, Task, Path]] = []
    monkeypatch.setattr("clipstill.commands.run.run", lambda *arguments, **_: calls.append(arguments))
    return calls


def test_arguments_win_over_overrides_and_recipe(asked: list[tuple[Settings, Task, Path]]) -> None:
    api.run(
        parse_task("dog,cat"),
        Path("runs/x"),
        recipe="ovc",
        overrides={"student": {"name": "resnet18", "image_size": 96}, "seed": 1},
        student="lite2",
        teacher="embedded-m",
        generator="embedded",
        images="photos",
        seed=7,
        device="cpu",
    )
    config, task, out = asked[0]
    assert (config.student.name, config.student.image_size) == ("lite2", 96)
    assert (config.teacher.name, config.generator.name) == ("embedded-m", "embedded")
    assert config.synthesis.steps == 400  # the recipe's
    assert (config.seed, config.device) == (7, "cpu")
    assert config.evaluation.images == Path("photos").resolve()
    assert (task.names, out) == (("dog", "cat"), Path("runs/x"))


def test_texts_and_nested_values_say_the_same(asked: list[tuple[Settings, Task, Path]]) -> None:
    api.run(parse_task("dog,cat"), Path("x"), overrides=["synthesis.steps=3"])
    api.run(parse_task("dog,cat"), Path("x"), overrides={"synthesis": {"steps": 3}})
    assert asked[0] == asked[1]


def test_default_folder_tells_the_classes_and_differs_by_them() -> None:
    first = api.default_out(parse_task("sea lion,crane: a bird,dog,cat"))
    assert first.parent == Path("runs")
    assert first.name.startswith("sea_lion-crane-dog-")
    assert first == api.default_out(parse_task("sea lion,crane: a bird,dog,cat"))
    assert first != api.default_out(parse_task("sea lion,crane: a machine,dog,cat"))
