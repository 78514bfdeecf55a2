"""Shipped recipes can be run, also where their published parts are not at hand."""

import inspect
from pathlib import Path

import pytest

from clipstill import distil
from clipstill.cli.protocols import base_to_novel, transfer
from clipstill.core.errors import ConfigError, UnknownNameError
from clipstill.core.files import read_json
from clipstill.datasets.coop import LAYOUTS
from clipstill.stages import STAGES
from clipstill.surrogate.dataset import SurrogateSet
from clipstill.text.task import parse_task
from clipstill.workflow.cohorts import Cohort
from clipstill.workflow.keys import Keys
from clipstill.workflow.photos import Photos
from clipstill.workflow.recipes import load_settings, load_with_origins, recipe_names
from run_fixtures import steps_done, stopped_before

TASK = parse_task("dog,guitar")
# The smallest student and images; what else a recipe has stays as it is.
TINY = (
    "threads=1",
    "device=cpu",
    "teacher.name=embedded-s",
    "generator.name=pixels",
    "prompts.images_per_class=4",
    "prompts.steps=2",
    "synthesis.steps=3",
    "synthesis.views=1",
    "synthesis.image_size=32",
    "refusal.images=1",
    "student.name=timm:test_efficientnet",
    "student.init=scratch",
    "student.image_size=32",
    "distillation.steps=2",
    "distillation.head_steps=2",
    "distillation.batch=4",
    "distillation.views=1",
    "distillation.warmup_steps=1",
    "distillation.lr=0.001",  # two steps of what is meant for thousands throw a student out
    "export.formats=[onnx]",
)


@pytest.mark.parametrize("recipe", recipe_names())
def test_every_recipe_is_complete_and_has_keys_of_its_own(recipe: str) -> None:
    def key(name: str) -> str:
        keys = Keys(STAGES, load_settings(name), Photos())
        return keys.of("student", Cohort(TASK, TASK.names))

    assert (key(recipe) == key("default")) == (recipe == "default")


@pytest.mark.slow
@pytest.mark.usefixtures("own_torch_settings")
@pytest.mark.parametrize("recipe", ["ovc", "dfkd-vlfm", "deepinversion"])
def test_published_recipes_run_on_the_embedded_parts(recipe: str, tmp_path: Path) -> None:
    # The export takes longest, and depends on the student alone.
    with stopped_before("bundle"), pytest.raises(KeyboardInterrupt):
        distil(classes=TASK, out=tmp_path / "run", recipe=recipe, settings=TINY)
    assert {"student", "calibration"} <= set(steps_done(tmp_path / "run"))
    stages = tmp_path / "run" / "stages"
    assert len(SurrogateSet.open(stages / "surrogate")) == 8
    strategy = {"ovc": "sdd", "dfkd-vlfm": "contrastive", "deepinversion": "plain"}[recipe]
    diversity = read_json(stages / "prompts" / "diversity.json")
    assert diversity["strategy"] == strategy
    assert (diversity["within_class"] > 1) == (recipe != "deepinversion")


def test_a_published_data_set_has_settings_of_its_own_that_give_way_to_the_users() -> None:
    assert load_settings("promptkd").distillation.kd_weight == 1000
    for layout in LAYOUTS:
        config = load_settings("promptkd", layout=layout)
        assert config.prompts.templates == layout
        few_classes = layout in ("oxford_flowers", "fgvc_aircraft", "dtd")
        assert config.distillation.kd_weight == (200 if few_classes else 1000)
    assert load_settings("promptkd", overrides=["distillation.kd_weight=7"], layout="dtd").distillation.kd_weight == 7
    assert load_settings("default", layout="dtd") == load_settings("default")


def test_across_data_sets_the_published_settings_are_the_same_for_every_target() -> None:
    for layout in LAYOUTS:
        config = load_settings("promptkd-transfer", layout=layout)
        assert (config.student.prompt_depth, config.distillation.kd_weight) == (3, 1000)
        assert config.prompts.templates == layout
        changed = {"student.prompt_depth": 9, "distillation.kd_weight": 1000}
        within = load_settings("promptkd", layout=layout)
        assert config.changed(**changed) == within.changed(**changed)
    # The command takes it by default.
    assert inspect.signature(transfer).parameters["recipe"].default == "promptkd-transfer"
    assert inspect.signature(base_to_novel).parameters["recipe"].default == "promptkd"


def test_a_recipe_extends_another() -> None:
    published, embedded = load_settings("promptkd"), load_settings("promptkd-embedded", layout="dtd")
    assert embedded.teacher.name == "embedded-m"
    assert embedded.distillation.epochs == published.distillation.epochs == 20
    assert embedded.student.head == published.student.head == "class-vectors"
    assert embedded.distillation.kd_weight == 200  # what is published for a data set goes with it


def test_a_recipe_that_extends_itself_is_told(tmp_path: Path) -> None:
    recipe = tmp_path / "mine.yaml"
    recipe.write_text(f"extends: {recipe}\n")
    with pytest.raises(ConfigError, match="extends itself"):
        load_settings(str(recipe))
    recipe.write_text("extends: no-such\n")
    with pytest.raises(UnknownNameError, match="no-such"):
        load_settings(str(recipe))


@pytest.mark.parametrize(
    ("recipe", "overrides", "images"),
    [
        ("default", [], 8),
        ("default", ["teacher.name=embedded-s"], 8),
        ("default", ["student.name=lite2"], 8),
        ("default", ["teacher.name=embedded-s", "student.name=lite2"], 24),
        ("default", ["student.name=timm:resnet18"], 24),
        ("default", ["teacher.name=openclip:ViT-B-32/openai"], 24),
        ("default", ["student.start=none"], 24),
        ("default", ["student.init=scratch"], 24),
        ("default", ["student.head=class-vectors"], 24),
        ("default", ["examples.images=photos"], 24),
        ("default", ["unlabelled.images=photos"], 8),
        ("default", ["prompts.images_per_class=3"], 3),
        ("ovc", ["teacher.name=embedded-m", "student.name=lite0"], 64),
    ],
)
def test_a_student_that_begins_with_what_its_teacher_knows_has_few_images(
    recipe: str, overrides: list[str], images: int
) -> None:
    loaded = load_with_origins(recipe, overrides=overrides)
    assert loaded.settings.prompts.images_per_class == images
    # Only what the user gave stays as it is where a budget asks for less.
    assert ("prompts.images_per_class" in loaded.given) == ("prompts.images_per_class=3" in overrides)
