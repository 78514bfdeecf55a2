"""What a plan promises: its form, its ladder of settings, its cost; and that a run keeps to what it once chose."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from PIL import Image

import clipstill
from clipstill.cli.main import main
from clipstill.commands.run import _IN_STAGES
from clipstill.core.errors import ArtifactError, ConfigError, TaskError, UnknownNameError
from clipstill.core.files import read_json
from clipstill.core.images import ImageFolder
from clipstill.core.seeds import generator_for
from clipstill.planning import cost as pipeline_cost
from clipstill.planning import plan as planner
from clipstill.planning.cost import Flops, Models, Rates, Work, cost_of, count_flops
from clipstill.planning.plan import Plan, choose_settings, with_settings
from clipstill.text.task import parse_task
from clipstill.workflow.recipes import load_settings
from clipstill.workflow.store import read_events

pytestmark = pytest.mark.usefixtures("own_torch_settings")
TINY = (
    "threads=1",
    "device=cpu",
    "teacher.name=embedded-s",
    "generator.name=pixels",
    "prompts.styles=[photo, sketch]",
    "synthesis.image_size=32",
    "synthesis.group_size=4",
    "curation.min_score=0",
    "refusal.near_misses=0",
    "student.image_size=64",
    "distillation.batch=4",
    "distillation.views=1",
    "distillation.held_out_styles=1",
    "distillation.checkpoint_every=50",
)
FLOPS = Flops(
    image_step=1.0, student=0.1, teacher=0.2, measuring=0.4, head_step=0.001, step_bytes=1e6, weight_bytes=10**8
)
RATES = Rates(synthesis=0.02, forward=0.01, training=0.03, text=0.01, slowness=1.0, probed=True)


DEFAULT = load_settings()


def cost(settings: Mapping[str, Any], classes: int = 5) -> planner.Cost:
    config = with_settings(DEFAULT, settings)
    work = Work.of(config, classes, photos=0, examples=0, unlabelled=0, templates=1)
    return cost_of(work, FLOPS, RATES, config)


def test_work_is_counted_from_the_settings() -> None:
    work = Work.of(DEFAULT, 7, photos=280, examples=0, unlabelled=0, templates=1)
    assert (work.images, work.near_images, work.image_steps) == (112, 14, 126 * 60)
    assert (work.head_steps, work.all_steps, work.photos) == (1000, 0, 280)
    freed = with_settings(DEFAULT, {"distillation.freeze": "bn", "distillation.head_steps": 300})
    more = Work.of(freed, 7, photos=0, examples=0, unlabelled=0, templates=1)
    assert (more.head_steps, more.all_steps) == (300, 1000)


def test_cost_is_the_sum_of_its_stages_and_grows_with_images_and_steps() -> None:
    base = cost({})
    assert base.seconds == pytest.approx(sum(base.stages.values()))
    assert base.stages["surrogate"] == pytest.approx(5 * 16 * 60 * 0.02)
    assert cost({"prompts.images_per_class": 32}).stages["surrogate"] == 2 * base.stages["surrogate"]
    assert cost({"distillation.minutes": 3}).stages["student"] == 180
    assert cost({"synthesis.group_size": 14}).memory_bytes < base.memory_bytes


def test_a_larger_budget_never_chooses_less() -> None:
    budgets = [20, 60, 100, 200, 300, 500, 1000, 2000, 8000]
    chosen = [choose_settings(DEFAULT, budget, lambda settings: cost(settings).seconds) for budget in budgets]
    seconds = [cost(settings).seconds for settings in chosen]
    assert seconds == sorted(seconds)
    assert len(set(seconds)) > 5
    assert seconds[0] < cost({}).seconds < seconds[-1]
    assert all(took <= budget for took, budget in zip(seconds[2:], budgets[2:], strict=True))


def test_a_budget_leaves_alone_what_was_given_and_what_fits() -> None:
    def chosen(budget: float, *given: str) -> dict[str, Any]:
        return choose_settings(DEFAULT, budget, lambda settings: cost(settings).seconds, given)

    assert chosen(cost({}).seconds + 1) == {}
    assert "prompts.images_per_class" in chosen(60)
    assert "prompts.images_per_class" not in chosen(60, "prompts.images_per_class")
    rich = chosen(1e9)
    assert rich["distillation.freeze"] == "bn"
    assert not {"distillation.freeze", "distillation.head_steps"} & chosen(1e9, "distillation.freeze").keys()


@pytest.fixture(scope="module")
def models() -> Models:
    return Models.load(load_settings(overrides=TINY), 3, torch.device("cpu"), 1)


@pytest.fixture(scope="module")
def made(models: Models) -> Plan:
    config = load_settings(overrides=(*TINY, "synthesis.steps=4", "prompts.images_per_class=4"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline_cost, "_PIECE_S", 0.2)
        return planner.plan(config, parse_task("crane,heron,stork"), budget_seconds=120, models=models)


def test_a_plan_has_the_form_that_others_build_on(made: Plan) -> None:
    told = made.to_json()
    assert list(told) == [
        "classes", "findings", "expected_top1", "expected_per_class", "cost", "settings", "budget_seconds",
    ]  # fmt: skip
    assert list(told["cost"]) == ["seconds", "stages", "images", "image_steps", "gflop", "memory_bytes"]
    assert list(told["findings"][0]) == ["level", "kind", "classes", "message", "advice"]
    assert list(told["expected_per_class"]) == ["crane", "heron", "stork"]
    assert 0 < told["expected_top1"] <= 1
    assert told["budget_seconds"] == 120
    assert told["cost"]["gflop"] > 0
    assert Plan.from_json(json.loads(json.dumps(told))).to_json() == told


def test_a_plan_that_is_none_is_told(made: Plan) -> None:
    with pytest.raises(ArtifactError, match="stored plan"):
        Plan.from_json({"classes": ["a"]})


def test_gflop_of_a_step_grow_with_its_pixels(models: Models) -> None:
    config = load_settings(overrides=TINY)
    vectors_CD = torch.nn.functional.normalize(
        torch.randn(3, models.teacher.dim, generator=generator_for("plan")), dim=1
    )
    small = count_flops(config, models, vectors_CD)
    large = count_flops(with_settings(config, {"synthesis.image_size": 64}), models, vectors_CD)
    assert small.image_step is not None
    assert large.image_step is not None
    assert 3 < large.image_step / small.image_step < 5
    # A step goes forward through teacher and generator and back to the pixels.
    assert large.image_step > 2 * large.teacher
    assert large.teacher == pytest.approx(small.teacher)


def arguments(out: Path, *more: str) -> list[str]:
    settings = [part for setting in TINY for part in ("--set", setting)]
    return ["run", "--classes", "crane,heron", "--out", str(out), *settings, *more]


@pytest.fixture(scope="module")
def budgeted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run within a budget that nothing fits into, stopped behind its prompts."""
    out = tmp_path_factory.mktemp("budget") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline_cost, "_PIECE_S", 0.2)
        patch.setitem(_IN_STAGES, "surrogate", stopped)
        assert main(arguments(out, "--budget", "1s", "--quiet")) == 130
    return out


def stopped(*_: object) -> None:
    raise KeyboardInterrupt


def test_a_run_takes_the_settings_that_its_budget_chose(budgeted: Path) -> None:
    told = read_json(budgeted / "plan.json")
    assert told["budget_seconds"] == 1
    assert told["settings"]["prompts.images_per_class"] == 2
    settings = yaml.safe_load((budgeted / "config.yaml").read_text())
    assert settings["prompts"]["images_per_class"] == 2
    assert settings["synthesis"]["steps"] == told["settings"]["synthesis.steps"]


def test_the_same_command_goes_on_with_the_stored_choice_whatever_a_probe_would_say(
    budgeted: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def no_probe(*_: object) -> None:
        raise AssertionError("planned again")

    monkeypatch.setattr(planner, "probe", no_probe)
    monkeypatch.setitem(_IN_STAGES, "surrogate", stopped)
    before = read_json(budgeted / "plan.json")
    assert main(arguments(budgeted, "--budget", "1s")) == 130
    assert "prompts: done already, skipped" in capsys.readouterr().err
    assert read_json(budgeted / "plan.json") == before
    assert [event["event"] for event in read_events(budgeted)].count("plan") == 1


def test_another_budget_chooses_anew(budgeted: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def asked(*_: object, **__: object) -> None:
        raise ConfigError("asked for a plan")

    monkeypatch.setattr("clipstill.commands.run.plan", asked)
    assert main(arguments(budgeted, "--budget", "5s", "--quiet")) == 2


def test_a_plain_run_warns_of_its_names_and_keeps_its_plan(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(_IN_STAGES, "class_vectors", stopped)
    command = arguments(tmp_path / "run", "--set", "synthesis.steps=2", "--set", "prompts.images_per_class=2")
    command[2] = "sofa,couch,dog"
    assert main(command) == 130
    told = capsys.readouterr().err
    assert "warning: 'sofa' and 'couch' are two names of one thing" in told
    assert "an estimate" in told
    plan = read_json(tmp_path / "run" / "plan.json")
    assert (plan["settings"], plan["budget_seconds"]) == ({}, None)
    assert plan["cost"]["images"] == 6
    assert main(command) == 130
    assert "warning" not in capsys.readouterr().err


def test_plan_verb_tells_people_and_ends_with_2_where_strict(
    tmp_path: Path, made: Plan, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("clipstill.api.plan", lambda *_, **__: made)
    out = tmp_path / "plan.yaml"
    assert main(["plan", "--classes", "crane,heron,stork", "--strict", "--out", str(out)]) == 2
    told = capsys.readouterr().out
    for text in ("warning: 'crane' can be", "an estimate", "top-1", "whole run", "Budget:"):
        assert text in told
    assert load_settings(file=out) == with_settings(load_settings(), made.settings)
    assert main(["plan", "--classes", "crane,heron,stork", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == made.to_json()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--classes", "dog,cat", "--budget", "soon"], "10min, 90s or 1h30min"),
        (["--classes", "dog,cat", "--budget", "0s"], "leaves no time"),
        (["--classes", "dog"], "only class"),
        (["--classes", "dog,cat", "--teacher", "embeded-s"], "Did you mean 'embedded-s'"),
    ],
)
def test_mistakes_are_one_line(more: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", *more]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert message in lines[0]


def test_the_python_interface_raises_the_same() -> None:
    with pytest.raises(TaskError):
        clipstill.plan(["dog"])
    with pytest.raises(UnknownNameError):
        clipstill.plan(["dog", "cat"], teacher="embeded-s")
    with pytest.raises(ConfigError):
        clipstill.plan(["dog", "cat"], budget="soon")


def test_what_cannot_be_estimated_is_done_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(*_: object, **__: object) -> None:
        raise RuntimeError("no such kernel")

    monkeypatch.setattr(planner, "count_flops", fails)
    monkeypatch.setattr(planner, "_FLOPS", {})
    monkeypatch.setitem(_IN_STAGES, "prompts", stopped)
    assert main(arguments(tmp_path / "run", "--set", "synthesis.steps=2")) == 130
    assert "plan: there is none (RuntimeError: no such kernel)" in capsys.readouterr().err
    assert (tmp_path / "run" / "stages" / "class_vectors" / "MANIFEST.json").exists()


def test_who_has_examples_of_a_class_hears_nothing_of_its_name(models: Models, tmp_path: Path) -> None:
    config, task = load_settings(overrides=(*TINY, "synthesis.steps=4")), parse_task("crane,heron,stork")
    for name in task.names:
        (tmp_path / name).mkdir()
        Image.new("RGB", (8, 8)).save(tmp_path / name / "0.png")
    examples = ImageFolder.open(tmp_path, task.names)
    plan = planner.plan(config, task, examples=examples, with_probe=False, models=models)
    assert plan.findings == ()
    assert plan.cost.stages.keys() >= {"class_vectors", "surrogate", "student", "bundle"}
