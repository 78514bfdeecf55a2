"""What a plan promises: its form, its cost; and that a run keeps to what it once chose."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from PIL import Image
from torch import Tensor

import clipstill
from clipstill.cli.main import main
from clipstill.core.errors import ConfigError, TaskError, UnknownNameError
from clipstill.core.files import read_json, write_json
from clipstill.core.image_folder import ImageFolder
from clipstill.core.seeds import generator_for
from clipstill.planning import plan as planner
from clipstill.planning import timings
from clipstill.planning.cost import Cost, cost_of
from clipstill.planning.plan import PLAN_FILE, Plan, _limits
from clipstill.planning.timings import Timings, _Kept, measure
from clipstill.teachers.embedded import EmbeddedTeacher
from clipstill.text.task import parse_task
from clipstill.workflow.models import Models
from clipstill.workflow.photos import Photos
from clipstill.workflow.recipes import load_settings
from clipstill.workflow.records import read_events
from clipstill.workflow.settings import Settings
from clipstill.workflow.store import LockedStore
from run_fixtures import run_arguments, stopped_before

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


@pytest.fixture(scope="module")
def models() -> Models:
    return Models(load_settings(overrides=TINY))


@pytest.fixture(scope="module")
def made(models: Models) -> Plan:
    config = load_settings(overrides=(*TINY, "synthesis.steps=4", "prompts.images_per_class=4"))
    return planner.plan(
        config, parse_task("crane,heron,stork"), Photos(), budget_seconds=120, models=models, quick=True
    )


def test_a_plan_has_the_form_that_others_build_on(made: Plan) -> None:
    told = made.to_json()
    assert list(told) == [
        "classes", "findings", "foresight", "expected_per_class", "cost", "limits", "settings", "budget_seconds",
    ]  # fmt: skip
    assert list(told["cost"]) == ["seconds", "stages", "images", "image_steps", "memory_bytes"]
    assert list(told["findings"][0]) == ["level", "kind", "classes", "message", "advice", "taken_for"]
    assert list(told["expected_per_class"]) == ["crane", "heron", "stork"]
    assert 0 < told["foresight"]["photos"]["low"] < told["foresight"]["photos"]["high"] < 1
    assert told["budget_seconds"] == 120
    assert told["cost"]["stages"]["surrogate"] > 0


def test_the_share_of_a_class_that_is_taken_for_another_thing_says_so(made: Plan) -> None:
    assert made.expected_text("crane").endswith(" % if a lifting device is meant")
    assert made.expected_text("heron").endswith(" %")
    assert made.foresight.basis == "names alone, taking crane as a lifting device"


def test_a_stored_plan_is_found_by_its_key_and_a_damaged_one_is_not(made: Plan, tmp_path: Path) -> None:
    with LockedStore(tmp_path, 1) as store:
        write_json(tmp_path / PLAN_FILE, made.to_json())
        store.event("plan", key="a")
    assert planner.stored_plan(tmp_path, "a") == made
    assert planner.stored_plan(tmp_path, "b") is None
    write_json(tmp_path / PLAN_FILE, {"classes": ["a"]})
    assert planner.stored_plan(tmp_path, "a") is None


def probed(config: Settings, models: Models, vectors_CD: Tensor, trains_all: bool) -> Timings:
    task = parse_task("crane,heron,stork")
    return measure(config, task, models, class_vectors_CD=vectors_CD, trains_all=trains_all)


def test_measured_seconds_and_memory_belong_to_the_work(models: Models) -> None:
    config = load_settings(overrides=TINY)
    vectors_CD = torch.nn.functional.normalize(
        torch.randn(3, models.teacher.dim, generator=generator_for("plan")), dim=1
    )
    small = probed(config, models, vectors_CD, trains_all=False)
    larger = config.changed(**{"synthesis.image_size": 64})
    large = probed(larger, models, vectors_CD, trains_all=True)
    assert 3 < large.image_bytes / small.image_bytes < 5
    # A training step also sees each view, and goes back through the student.
    assert large.training_view > large.view > 0
    assert large.training_bytes > 0
    assert small.training_view == small.training_bytes == 0
    assert large.base_bytes > 10**8
    assert 0 < large.text < 1
    assert large.image_size == 64


def test_generators_that_share_a_timed_step_keep_as_much_as_each_on_its_own() -> None:
    models = Models(load_settings(overrides=[*TINY, "generator.name=pixels+embedded"]))
    vectors_CD = models.teacher.encode_text(["crane", "heron", "stork"])
    probe = timings._Probe(models.settings, parse_task("crane,heron,stork"), models, class_vectors_CD=vectors_CD)
    alone = [probe._image(number) for number in range(2)]
    image_s, step_s, kept = probe.images()
    assert kept == pytest.approx(sum(bytes_ for _, _, bytes_ in alone) / 2, rel=0.05)
    assert alone[0][2] < 0.9 * alone[1][2]  # The decoder of the second keeps more than pixels do.
    assert min(image_s, step_s) > 0


def test_memory_is_counted_with_the_image_network_of_the_teacher(monkeypatch: pytest.MonkeyPatch) -> None:
    models = Models(load_settings(overrides=TINY))
    vectors_CD = models.teacher.encode_text(["crane", "heron", "stork"])
    assert isinstance(models.teacher, EmbeddedTeacher)
    built = vars(models.teacher.towers[0])
    assert "network" not in built
    monkeypatch.setattr(timings, "_memory_in_use", lambda device: int("network" in built))
    assert probed(load_settings(overrides=TINY), models, vectors_CD, trains_all=False).base_bytes == 1


def test_a_plan_times_steps_with_the_threads_of_its_run(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, bool]] = []

    def timed(*_: object, **__: object) -> Timings:
        seen.append((torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()))
        raise ConfigError("enough")

    monkeypatch.setattr(planner, "timings_of", timed)
    for threads in (1, 2):
        with pytest.raises(ConfigError, match="enough"):
            clipstill.plan(classes="crane,heron", settings=[*TINY, f"threads={threads}"])
    assert seen == [(1, True), (2, True)]


def test_the_bytes_of_a_step_are_those_that_its_graph_holds_at_once() -> None:
    kept = _Kept()
    x = torch.ones(1000, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(kept.pack, lambda held: held.tensor):
        for _ in range(3):  # One graph after another, not three at once.
            y = x * 2
            # Both save the same tensor, of 4,000 bytes; the weight x is not counted.
            torch.autograd.grad((y * y).sum() + y.square().sum(), x)
            del y
    assert kept.most == 4_000


TIMINGS = Timings(
    image=0.0,
    image_step=1.0,
    view=0.0,
    photo=0.0,
    training_view=0.0,
    text=0.5,
    prompt_step=0.25,
    image_bytes=10**9,
    training_bytes=10**7,
    feature_bytes=0,
    base_bytes=2 * 10**9,
    image_size=224,
)
OVC = load_settings("ovc", overrides=("generator.name=pixels",))


def test_soft_tokens_cost_their_own_steps() -> None:
    told = cost_of(OVC, TIMINGS, classes=10, templates=1)
    assert told.stages["prompts"] == 640 * (0.5 + 200 * 0.25)
    fewer = OVC.changed(**{"prompts.strategy": "contrastive", "prompts.pseudo_styles": 32})
    assert cost_of(fewer, TIMINGS, classes=10, templates=1).stages["prompts"] == 640 * 0.5 + 320 * 200 * 0.25


def test_a_run_beyond_an_hour_or_the_memory_says_which_settings_fit() -> None:
    def cost(changed: Mapping[str, Any]) -> Cost:
        return cost_of(OVC.changed(**changed), TIMINGS, classes=2, templates=1)

    told = _limits(OVC, {}, cost, shorter={"synthesis.steps": 20}, available=12 * 10**9)
    assert len(told) == 2
    assert "synthesis.steps=20 would take about" in told[0]
    assert "needs about 18" in told[1]
    assert "synthesis.group_size=8 would need 10" in told[1]
    assert _limits(OVC, {}, cost, shorter={}, available=20 * 10**9) == ()
    assert "Smaller images or models would need less." in _limits(OVC, {}, cost, shorter={}, available=10**9)[0]


SMALL_STUDENT = ("student.name=timm:test_efficientnet", "student.init=scratch", "student.image_size=32")


def arguments(out: Path, *more: str) -> list[str]:
    return run_arguments(out, (*TINY, *SMALL_STUDENT), *more, classes="crane,heron")


@pytest.fixture(scope="module")
def budgeted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run within a budget that nothing fits into, stopped behind its prompts."""
    out = tmp_path_factory.mktemp("budget") / "run"
    with stopped_before("surrogate"):
        assert main(arguments(out, "--budget", "1s")) == 130
    return out


def test_a_run_takes_the_settings_that_its_budget_chose(budgeted: Path) -> None:
    told = read_json(budgeted / "plan.json")
    assert told["budget_seconds"] == 1
    assert told["settings"]["prompts.images_per_class"] == 3
    settings = yaml.safe_load((budgeted / "config.yaml").read_text())
    assert settings["prompts"]["images_per_class"] == 3
    assert settings["synthesis"]["steps"] == told["settings"]["synthesis.steps"]


def test_the_same_command_goes_on_with_the_stored_choice_whatever_a_probe_would_say(
    budgeted: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = read_json(budgeted / "plan.json")
    with stopped_before("surrogate"):
        assert main(arguments(budgeted, "--budget", "1s")) == 130
    assert "prompts: done already, skipped" in capsys.readouterr().err
    assert read_json(budgeted / "plan.json") == before
    assert [event["event"] for event in read_events(budgeted)].count("plan") == 1


@pytest.mark.slow
def test_another_budget_chooses_anew(budgeted: Path) -> None:
    with stopped_before("surrogate"):
        assert main(arguments(budgeted, "--budget", "2s")) == 130
    assert read_json(budgeted / "plan.json")["budget_seconds"] == 2
    assert [event["event"] for event in read_events(budgeted)].count("plan") == 2


@pytest.mark.slow
def test_a_plain_run_warns_of_its_names_and_keeps_its_plan(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = arguments(tmp_path / "run", "--set", "synthesis.steps=2", "--set", "prompts.images_per_class=2")
    command[2] = "sofa,couch,dog"
    with stopped_before("class_vectors"):
        assert main(command) == 130
    told = capsys.readouterr().err
    assert "warning: 'sofa' and 'couch' are two names of one thing" in told
    assert "80 % interval" in told
    plan = read_json(tmp_path / "run" / "plan.json")
    assert (plan["settings"], plan["budget_seconds"]) == ({}, None)
    assert plan["cost"]["images"] == 6
    with stopped_before("class_vectors"):
        assert main(command) == 130
    assert "warning" not in capsys.readouterr().err


def test_plan_verb_tells_people_and_ends_with_2_where_strict(
    tmp_path: Path, made: Plan, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made = replace(made, cost=replace(made.cost, stages={"start": 8.0, "surrogate": 90.0}))
    monkeypatch.setattr("clipstill.api.plan", lambda *_, **__: made)
    out = tmp_path / "plan.yaml"
    assert main(["plan", "--classes", "crane,heron,stork", "--strict", "--out", str(out)]) == 2
    told = capsys.readouterr().out
    for text in (
        "warning: 'crane' can be",
        "80 % interval",
        "an estimate",
        "whole run",
        "measuring (--images) and other work on this machine add to it",
        "Make the images  ",
        "steps of optimisation",
        "Budget:",
    ):
        assert text in told
    assert "surrogate" not in told
    assert load_settings(file=out) == load_settings().changed(**made.settings)
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
        clipstill.plan(classes=["dog"])
    with pytest.raises(UnknownNameError):
        clipstill.plan(classes=["dog", "cat"], teacher="embeded-s")
    with pytest.raises(ConfigError):
        clipstill.plan(classes=["dog", "cat"], budget="soon")


def test_what_cannot_be_estimated_is_done_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(*_: object, **__: object) -> None:
        raise RuntimeError("no such kernel")

    monkeypatch.setattr(planner, "timings_of", fails)
    with stopped_before("prompts"):
        assert main(arguments(tmp_path / "run", "--set", "synthesis.steps=2")) == 130
    assert "plan: skipped (RuntimeError: no such kernel)" in capsys.readouterr().err
    assert (tmp_path / "run" / "stages" / "class_vectors" / "MANIFEST.json").exists()


def test_who_has_examples_of_a_class_hears_nothing_of_its_name(models: Models, tmp_path: Path) -> None:
    config, task = load_settings(overrides=(*TINY, "synthesis.steps=4")), parse_task("crane,heron,stork")
    for name in task.names:
        (tmp_path / name).mkdir()
        Image.new("RGB", (8, 8)).save(tmp_path / name / "0.png")
    examples = ImageFolder.open(tmp_path, task.names)
    plan = planner.plan(config, task, Photos(examples=examples), models=models, quick=True)
    assert plan.findings == ()
    assert plan.cost.stages.keys() >= {"class_vectors", "surrogate", "student", "bundle"}


def test_names_that_cannot_be_read_are_told_without_a_number(models: Models) -> None:
    config = load_settings(overrides=TINY)
    told = planner.plan(config, parse_task("собака,слон,dog"), Photos(), models=models, quick=True)
    assert told.foresight.photos is None
    assert told.expected_per_class == {}
    assert [one.kind for one in told.warnings] == ["unreadable"]
    helped = planner.plan(config, parse_task("собака: dog,слон: elephant,horse"), Photos(), models=models, quick=True)
    assert helped.warnings == []
    assert helped.foresight.photos is not None


def test_equal_class_vectors_are_an_error_that_names_both(models: Models) -> None:
    with pytest.raises(TaskError, match=r"'🐶' and '🐘' as the same"):
        planner.plan(load_settings(overrides=TINY), parse_task("dog,🐶,🐘"), Photos(), models=models, quick=True)


def test_photos_without_labels_and_examples_sharpen_what_is_foretold(models: Models, tmp_path: Path) -> None:
    config, task = load_settings(overrides=TINY), parse_task("dog,elephant")
    for name in task.names:
        (tmp_path / name).mkdir()
        for number in range(6):
            picture = Image.effect_noise((40, 40), 20.0 + number).convert("RGB")
            picture.save(tmp_path / name / f"{number}.png")
    unlabelled, examples = ImageFolder.without_labels(tmp_path), ImageFolder.open(tmp_path, task.names)
    seen = planner.plan(config, task, Photos(None, None, unlabelled), models=models, quick=True)
    assert seen.foresight.basis == "12 photos without labels"
    shown = planner.plan(config, task, Photos(None, examples, None), models=models, quick=True)
    assert shown.foresight.basis == "12 examples, each classified without itself"
