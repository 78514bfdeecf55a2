from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from clipstill.core.image_folder import ImageFolder
from clipstill.stages import STAGES
from clipstill.text.task import Task, parse_task
from clipstill.workflow.cohorts import FolderHistory, cohorts_in_use
from clipstill.workflow.keys import Keys
from clipstill.workflow.photos import Photos
from clipstill.workflow.recipes import load_settings

TASK = parse_task("dog,cat")


def stage_keys(*overrides: str, task: Task = TASK, **photos: ImageFolder) -> dict[str, str]:
    """Key of each step of a run in an empty folder; the small teacher's bundle, made first, has a test of its own."""
    overrides = ("export.zero_shot=false", *overrides)
    keys = Keys(STAGES, load_settings(overrides=overrides), Photos(**photos))
    return {step.name: step.key for step in keys.steps(task, cohorts_in_use(keys, task, FolderHistory()))}


def differing(before: dict[str, str], after: dict[str, str]) -> list[str]:
    return [stage for stage in before if before[stage] != after[stage]]


def photo_folder(path: Path) -> ImageFolder:
    for name in ("dog", "cat"):
        (path / name).mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), "red").save(path / name / "a.png")
    return ImageFolder.open(path, TASK.names)


def changed(tmp_path: Path, *overrides: str) -> list[str]:
    photos = photo_folder(tmp_path / "photos")
    before, after = stage_keys(measured=photos), stage_keys(*overrides, measured=photos)
    assert list(before) == list(after)
    return differing(before, after)


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
        ("distillation.steps=3", "student"),
        ("student.prompts=3", "student"),
        ("student.name=lite2", "student"),
        ("export.int8_refuse=0.1", "bundle"),
        ("evaluation.small_teacher=embedded-m", "ladder"),
    ],
)
def test_a_setting_touches_its_stage_and_the_later_ones_only(tmp_path: Path, override: str, first: str) -> None:
    order = list(stage_keys(measured=photo_folder(tmp_path / "photos")))
    later = order[order.index(first) :]
    if first != "class_vectors" and not override.startswith(("seed", "refusal.images", "synthesis", "generator")):
        # Near misses have prompts of their own, and are the same whatever images the classes get.
        later = [stage for stage in later if stage != "near_misses"]
    if first == "ladder":
        assert later == ["ladder", "report"]
    assert changed(tmp_path, override) == later


@pytest.mark.parametrize("override", ["device=cpu", "threads=1"])
def test_what_changes_only_the_speed_touches_nothing(tmp_path: Path, override: str) -> None:
    assert changed(tmp_path, override) == []


def test_another_photo_is_measured_again_and_trains_nothing(tmp_path: Path) -> None:
    before = stage_keys(measured=photo_folder(tmp_path))
    Image.new("RGB", (9, 9), "blue").save(tmp_path / "dog" / "b.png")
    after = stage_keys(measured=ImageFolder.open(tmp_path, TASK.names))
    assert differing(before, after) == ["evaluation", "bundle", "ladder", "report"]


def test_without_photos_there_is_no_evaluation_and_no_ladder(tmp_path: Path) -> None:
    assert not {"evaluation", "ladder"} & set(stage_keys())
    assert {"evaluation", "ladder"} <= set(stage_keys(measured=photo_folder(tmp_path)))


def unlabelled(path: Path) -> ImageFolder:
    photo_folder(path)
    return ImageFolder.without_labels(path)


def test_other_unlabelled_photos_adapt_and_train_anew_and_make_no_image(tmp_path: Path) -> None:
    before = stage_keys(unlabelled=unlabelled(tmp_path))
    Image.new("RGB", (9, 9), "blue").save(tmp_path / "dog" / "b.png")
    after = stage_keys(unlabelled=unlabelled(tmp_path))
    assert differing(before, after) == [
        *("photo_features", "adapted_vectors", "student", "calibration", "bundle", "report")
    ]


def test_another_class_needs_no_second_sight_of_the_unlabelled_photos(tmp_path: Path) -> None:
    photos = unlabelled(tmp_path)
    before, after = stage_keys(unlabelled=photos), stage_keys(unlabelled=photos, task=parse_task("dog,cat,cow"))
    same = [stage for stage in before if before[stage] == after.get(stage)]
    assert same == ["photo_features"]


def test_vectors_are_adapted_where_there_are_photos_and_no_learned_prompts(tmp_path: Path) -> None:
    adapting = {"photo_features", "adapted_vectors"}
    photos = unlabelled(tmp_path)
    assert adapting <= set(stage_keys(unlabelled=photos))
    assert not adapting & {*stage_keys(), *stage_keys("unlabelled.adapt=false", unlabelled=photos)}
    assert not adapting & set(stage_keys("prompt_teacher.weights=" + str(tmp_path / "dog/a.png"), unlabelled=photos))


def test_keys_of_other_stages_do_not_know_the_ladder(tmp_path: Path) -> None:
    photos = photo_folder(tmp_path)
    with_it, without = stage_keys(measured=photos), stage_keys("evaluation.ladder=false", measured=photos)
    assert set(with_it) - set(without) == {"ladder"}
    assert differing(without, with_it) == ["report"]


def test_other_classes_touch_everything() -> None:
    before, after = stage_keys(), stage_keys(task=parse_task("dog,cat: a pet"))
    assert differing(before, after) == list(before)


def test_teacher_file_counts_by_its_content(tmp_path: Path) -> None:
    weights = tmp_path / "vit.pt"
    keys = []
    for content in (b"one", b"two", b"one"):
        weights.write_bytes(content)
        keys.append(stage_keys(f"teacher.name=openclip:ViT-B-32-quickgelu/{weights}")["class_vectors"])
    assert keys[0] == keys[2] != keys[1]


def test_other_weights_behind_the_same_name_touch_what_they_draw(tmp_path: Path) -> None:
    file = tmp_path / "decoder.safetensors"

    def surrogate_key(value: float) -> str:
        save_file({"weight": torch.full((2,), value)}, file)
        return stage_keys(f"generator.name=vqgan:{file}+pixels")["surrogate"]

    assert surrogate_key(0.0) == surrogate_key(0.0)
    assert surrogate_key(0.0) != surrogate_key(1.0)


def test_examples_touch_class_vectors_and_all_that_follows(tmp_path: Path) -> None:
    examples = photo_folder(tmp_path / "examples")
    without, given = stage_keys(), stage_keys(examples=examples)
    assert differing(given, without) == list(given)
    other = stage_keys("examples.teach_share=0.1", examples=examples)
    assert differing(given, other) == ["student", "calibration", "bundle", "report"]


def test_where_images_are_made_touches_nothing() -> None:
    assert stage_keys() == stage_keys("launch.launcher=ray", "launch.workers=3")


def test_photos_without_labels_touch_the_student_alone_and_instead_of_images_leave_their_stages_out(
    tmp_path: Path,
) -> None:
    photo_folder(tmp_path / "photos")
    folder = ImageFolder.without_labels(tmp_path / "photos")
    assert differing(stage_keys(), stage_keys(unlabelled=folder)) == ["student", "calibration", "bundle", "report"]
    alone = stage_keys("prompts.images_per_class=0", "refusal.near_misses=0")
    assert list(alone) == ["class_vectors", "student", "calibration", "bundle", "report"]


def test_what_a_teacher_learns_touches_everything_behind_it(tmp_path: Path) -> None:
    examples = photo_folder(tmp_path / "photos")
    learns = "prompt_teacher.method=auto"
    assert "teacher_prompts" not in stage_keys(learns)  # auto, and there are no examples
    before, after = (
        stage_keys(learns, f"prompt_teacher.epochs={epochs}", "examples.images=x", examples=examples)
        for epochs in (2, 3)
    )
    assert list(before)[:2] == ["teacher_prompts", "class_vectors"]
    assert differing(before, after) == list(before)


def test_a_part_that_the_caller_built_counts_by_its_weights() -> None:
    def keys(**built: str) -> dict[str, str]:
        found = Keys(STAGES, load_settings(), Photos(), {f"{part}.name": digest for part, digest in built.items()})
        return {step.name: step.key for step in found.steps(TASK, cohorts_in_use(found, TASK, FolderHistory()))}

    assert keys(teacher="a") == keys(teacher="a")
    assert "class_vectors" in differing(keys(teacher="a"), keys(teacher="b"))
    assert differing(keys(student="a"), keys(student="b"))[0] == "student"


def test_the_small_teachers_bundle_depends_on_what_it_is_made_of_alone(tmp_path: Path) -> None:
    def key(*overrides: str, **photos: ImageFolder) -> str | None:
        return stage_keys("export.zero_shot=true", *overrides, **photos).get("zero_shot")

    photos = photo_folder(tmp_path / "photos")
    assert key() == key("distillation.steps=7", "prompts.images_per_class=3", "student.name=resnet18")
    others = [key("prompts.templates=plain"), key("evaluation.small_teacher=embedded-m"), key(measured=photos)]
    assert len({key(), *others, key(examples=photos), key(unlabelled=photos)}) == 6
    # A published CLIP is large, and so made by --quick alone.
    assert key("teacher.name=openclip:ViT-B-32/openai") is None
    before, after = (
        stage_keys("export.zero_shot=true", f"evaluation.small_teacher={name}", measured=photos)
        for name in ("embedded-s", "embedded-m")
    )
    assert differing(before, after) == ["zero_shot", "ladder", "report"]
