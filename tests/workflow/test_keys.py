from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from clipstill.core.images import ImageFolder
from clipstill.text.task import parse_task
from clipstill.workflow.keys import NEAR_MISSES, STAGES, stage_keys
from clipstill.workflow.recipes import load_settings

TASK = parse_task("dog,cat")


def photo_folder(path: Path) -> ImageFolder:
    for name in ("dog", "cat"):
        (path / name).mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), "red").save(path / name / "a.png")
    return ImageFolder.open(path, TASK.names)


def changed(tmp_path: Path, *overrides: str) -> list[str]:
    photos = photo_folder(tmp_path / "photos")
    before = stage_keys(load_settings(), TASK, photos)
    after = stage_keys(load_settings(overrides=overrides), TASK, photos)
    assert list(before) == list(after)
    return [stage for stage in before if before[stage] != after[stage]]


def test_equal_settings_give_equal_keys(tmp_path: Path) -> None:
    assert changed(tmp_path) == []


@pytest.mark.parametrize(
    ("override", "first"),
    [
        ("teacher.name=embedded-s", "class_vectors"),
        ("prompts.templates=name", "class_vectors"),
        ("prompts.images_per_class=7", "prompts"),
        ("seed=1", "prompts"),
        ("refusal.images=3", "near_misses"),
        ("synthesis.steps=3", "surrogate"),
        ("generator.name=other", "surrogate"),
        ("curation.min_score=0.1", "student"),
        ("curation.duplicate_cosine=0.5", "student"),
        ("curation.least_diversity=0.5", "surrogate"),
        ("distillation.steps=3", "student"),
        ("student.prompts=3", "student"),
        ("student.name=resnet18", "student"),
        ("refusal.most_refused=0.2", "calibration"),
        ("export.tolerance=0.1", "bundle"),
        ("evaluation.small_teacher=embedded-m", "ladder"),
    ],
)
def test_a_setting_touches_its_stage_and_the_later_ones_only(tmp_path: Path, override: str, first: str) -> None:
    later = list(STAGES[STAGES.index(first) :])
    if first != "class_vectors" and not override.startswith(("seed", "refusal.images", "synthesis", "generator")):
        # Near misses have prompts of their own, and are the same whatever images the classes get.
        later = [stage for stage in later if stage != NEAR_MISSES]
    assert changed(tmp_path, override) == later


@pytest.mark.parametrize("override", ["device=cpu", "threads=1", "evaluation.batch=4"])
def test_what_changes_only_the_speed_touches_nothing(tmp_path: Path, override: str) -> None:
    assert changed(tmp_path, override) == []


def test_another_photo_is_measured_again_and_trains_nothing(tmp_path: Path) -> None:
    before = stage_keys(load_settings(), TASK, photo_folder(tmp_path))
    Image.new("RGB", (9, 9), "blue").save(tmp_path / "dog" / "b.png")
    after = stage_keys(load_settings(), TASK, ImageFolder.open(tmp_path, TASK.names))
    assert [stage for stage in before if before[stage] != after[stage]] == ["evaluation", "bundle", "ladder", "report"]


def test_without_photos_there_is_no_evaluation() -> None:
    assert "evaluation" not in stage_keys(load_settings(), TASK, None)


def test_teacher_file_counts_by_its_content(tmp_path: Path) -> None:
    weights = tmp_path / "vit.pt"
    config = load_settings(overrides=[f"teacher.name=openclip:ViT-B-32-quickgelu/{weights}"])
    keys = []
    for content in (b"one", b"two", b"one"):
        weights.write_bytes(content)
        keys.append(stage_keys(config, TASK, None)["class_vectors"])
    assert keys[0] == keys[2] != keys[1]


def test_style_file_counts_by_its_content(tmp_path: Path) -> None:
    styles = tmp_path / "styles.txt"
    config = load_settings(overrides=[f"prompts.styles={styles}"])
    keys = []
    for content in ("sketch\n", "mosaic\n"):
        styles.write_text(content)
        keys.append(stage_keys(config, TASK, None)["prompts"])
    assert keys[0] != keys[1]


def test_other_weights_behind_the_same_name_touch_what_they_draw(tmp_path: Path) -> None:
    file = tmp_path / "decoder.safetensors"

    def surrogate_key(value: float) -> str:
        save_file({"weight": torch.full((2,), value)}, file)
        return stage_keys(load_settings(overrides=[f"generator.name=vqgan:{file}+pixels"]), TASK, None)["surrogate"]

    assert surrogate_key(0.0) == surrogate_key(0.0)
    assert surrogate_key(0.0) != surrogate_key(1.0)


def test_examples_touch_class_vectors_and_all_that_follows(tmp_path: Path) -> None:
    examples = photo_folder(tmp_path / "examples")
    without, given = (stage_keys(load_settings(), TASK, None, folder) for folder in (None, examples))
    assert all(without[stage] != given[stage] for stage in given)
    changed = stage_keys(load_settings(overrides=["examples.teach_share=0.1"]), TASK, None, examples)
    assert [stage for stage in given if given[stage] != changed[stage]] == [
        "student",
        "calibration",
        "bundle",
        "report",
    ]


def test_where_images_are_made_touches_nothing() -> None:
    here, there = (
        stage_keys(load_settings(overrides=overrides), TASK, None)
        for overrides in ([], ["launch.launcher=ray", "launch.workers=3", "synthesis.compile=true"])
    )
    assert here == there


def test_photos_without_labels_touch_the_student_alone_and_instead_of_images_leave_their_stages_out(
    tmp_path: Path,
) -> None:
    photo_folder(tmp_path / "photos")
    folder = ImageFolder.without_labels(tmp_path / "photos")
    before, after = stage_keys(load_settings(), TASK, None), stage_keys(load_settings(), TASK, None, None, folder)
    changed = [stage for stage in before if before[stage] != after[stage]]
    assert changed == ["student", "calibration", "bundle", "report"]
    alone = stage_keys(load_settings(overrides=["prompts.images_per_class=0", "refusal.near_misses=0"]), TASK, None)
    assert list(alone) == ["class_vectors", "student", "calibration", "bundle", "report"]


def test_what_a_teacher_learns_touches_everything_behind_it(tmp_path: Path) -> None:
    examples = photo_folder(tmp_path / "photos")
    learns = ["prompt_teacher.method=auto"]
    plain = stage_keys(load_settings(overrides=learns), TASK, None, None)
    assert "teacher_prompts" not in plain  # auto, and there are no examples
    before, after = (
        stage_keys(
            load_settings(overrides=[*learns, f"prompt_teacher.epochs={epochs}", "examples.images=x"]),
            TASK,
            None,
            examples,
        )
        for epochs in (2, 3)
    )
    assert list(before)[:2] == ["teacher_prompts", "class_vectors"]
    assert all(before[stage] != after[stage] for stage in before)
