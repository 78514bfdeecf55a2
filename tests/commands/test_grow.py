"""Classes come and go, examples and photos come, on one run folder: what is done again is counted."""

import shutil
import tarfile
from collections import Counter
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import clipstill
from clipstill.cli.main import main
from clipstill.core.files import read_json, sha256_file, write_json
from clipstill.text.task import parse_task
from clipstill.workflow.store import FORMAT_VERSION
from run_fixtures import (
    QUICK,
    kill_before_file,
    noise_photos,
    run_arguments,
    shards_of,
    steps_done,
    stopped_before,
    student_of,
)

CAT = "cat: a pet, with whiskers"
CLASSES = ("dog", "guitar", "cat", "cow")
pytestmark = pytest.mark.usefixtures("own_torch_settings")


@dataclass(frozen=True)
class Work:
    """What a call did, by the files that it left.

    Attributes:
        images: Number of new images of each class.
        groups: Number of new groups of them.
        near_misses: Number of new images of near misses.
        trained: Whether a student was trained.
    """

    images: dict[str, int] = field(default_factory=dict)
    groups: int = 0
    near_misses: int = 0
    trained: bool = False


def prompts_in(shard: Path) -> list[str]:
    with tarfile.open(shard) as images:
        names = [name for name in images.getnames() if name.endswith(".json")]
        found = [images.extractfile(name) for name in names]
        return [file.read().decode() for file in found if file is not None]


class Folder:
    """A run folder that knows which of its shards it has counted."""

    def __init__(self, path: Path) -> None:
        self.path, self._seen = path, set[str]()
        self.work()

    def work(self) -> Work:
        """What was done since this was last asked."""
        shards = {sha256_file(path): path for path in (self.path / "stages").rglob("shard-*.tar")}
        new = [shards[digest] for digest in shards if digest not in self._seen]
        self._seen |= set(shards)
        near = [path for path in new if path.parent.name.startswith("near_misses")]
        texts = [text for path in new if path not in near for text in prompts_in(path)]
        images = Counter(next(name for name in CLASSES if name in text) for text in texts)
        student = read_json(self.path / "stages" / "student" / "stage.json")
        trained = "student" in steps_done(self.path) and student["trained"]
        return Work(dict(images), len(new) - len(near), sum(len(prompts_in(path)) for path in near), trained)


def names_of(out: Path) -> tuple[str, ...]:
    return tuple(read_json(out / "task.json")["names"])


def up_to_the_bundle(*arguments: str) -> None:
    """Do a command, but for the export, which takes longer than all else together."""
    with stopped_before("bundle"):
        assert main(list(arguments)) == 130


@dataclass(frozen=True)
class Step:
    """One call of the story, and what it left."""

    work: Work
    shards: dict[str, str]
    labels: tuple[str, ...]
    student: str


@dataclass(frozen=True)
class Story:
    """What calls on one folder left, by name, and the folder as it is in the end."""

    steps: dict[str, Step]
    out: Path

    def __getitem__(self, name: str) -> Step:
        return self.steps[name]


@pytest.fixture(scope="module")
def story(quick_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Story:
    """Names, a class more, one less, and again, examples of one class, photos without labels: one folder."""
    place = tmp_path_factory.mktemp("story")
    out = Path(shutil.copytree(quick_run, place / "run"))
    examples = noise_photos(place / "examples", ["dog"], 2)
    photos = noise_photos(place / "photos", ["any"], 2)
    folder = Folder(out)
    steps = {"named": Step(Work(), shards_of(out), names_of(out), student_of(out))}

    def left(name: str) -> None:
        steps[name] = Step(folder.work(), shards_of(out), names_of(out), student_of(out))

    classes = place / "classes.txt"
    classes.write_text(f"dog\n{CAT}\nguitar\n")
    again = ["run", "--classes", str(classes), "--out", str(out), "--config", str(out / "config.yaml")]
    up_to_the_bundle("add-class", str(out), CAT)
    left("added")
    up_to_the_bundle("remove-class", str(out), "Guitar")
    left("removed")
    up_to_the_bundle("add-class", str(out), "guitar")
    left("back")
    up_to_the_bundle(*again)
    left("same by run")
    up_to_the_bundle(*again, "--examples", str(examples))
    left("examples")
    assert main([*again, "--examples", str(examples), "--unlabelled", str(photos), "--quiet"]) == 0
    left("unlabelled")
    return Story(steps, out)


@pytest.mark.slow
def test_the_bundle_answers_with_the_class_that_was_added(quick_copy: Path, tmp_path: Path) -> None:
    bundle = clipstill.add_class(run=quick_copy, classes=[CAT]).bundle
    assert bundle.labels == ("dog", "guitar", "cat")
    picture = noise_photos(tmp_path / "any", ["cat"], 1) / "cat" / "0.png"
    assert {each.label for each in bundle.predict(picture)} == {"dog", "guitar", "cat"}


@pytest.mark.slow
def test_adding_a_class_makes_images_of_it_alone_and_trains_once(story: Story) -> None:
    assert story["added"].work == Work({"cat": 4}, groups=2, near_misses=2, trained=True)
    assert story["added"].labels == ("dog", "guitar", "cat")


def test_removing_a_class_makes_no_image_and_bringing_it_back_finds_its_own(story: Story) -> None:
    assert story["removed"].work == Work(trained=True)
    assert story["removed"].labels == ("dog", "cat")
    assert story["back"].work == Work(trained=True)
    assert story["back"].labels == ("dog", "cat", "guitar")


def test_the_run_command_with_the_grown_list_finds_all_done(story: Story) -> None:
    assert story["same by run"].work == Work()
    assert story["same by run"].student == story["back"].student


def test_examples_draw_anew_the_classes_that_have_some_and_the_teacher_sees_those_alone(story: Story) -> None:
    assert story["examples"].work == Work({"dog": 4}, groups=2, trained=True)
    teacher = read_json(story.out / "stages" / "class_vectors" / "teacher.json")
    assert teacher["examples"] == {"dog": 2, "cat": 0, "guitar": 0}


def test_photos_without_labels_train_and_no_image_is_made(story: Story) -> None:
    assert story["unlabelled"].work == Work(trained=True)
    assert story["unlabelled"].student != story["examples"].student


def test_images_that_were_made_stay_the_same_bytes(story: Story) -> None:
    for before, after in pairwise(story.steps.values()):
        assert set(before.shards.values()) <= set(after.shards.values())
    assert story["named"].shards.items() <= story["added"].shards.items()
    assert len(story["added"].shards) == 6


def test_report_and_history_cover_all_cohorts(story: Story) -> None:
    page = (story.out / "report.html").read_text()
    assert all(f"a {name} in the style of sketch" in page for name in ("dog", "cat, a pet, with whiskers", "guitar"))
    kept = read_json(story.out / "stages" / "student" / "kept.json")
    assert [each["kept"] for each in kept] == [4, 4, 4]
    history = read_json(story.out / "stages" / "student" / "history.json")
    assert (history["images_made"], history["unlabelled"]) == (12, 2)


def test_a_near_miss_that_is_a_class_now_is_left_out(story: Story, quick_run: Path) -> None:
    before = read_json(quick_run / "stages" / "calibration" / "calibration.json")["refusal"]["near_misses"]
    assert "cat" in before
    after = read_json(story.out / "stages" / "calibration" / "calibration.json")["refusal"]["near_misses"]
    assert "cat" not in after
    assert len(set(after)) == len(after) > 2


def test_images_without_examples_are_found_again_when_the_examples_go(quick_copy: Path, tmp_path: Path) -> None:
    examples = str(noise_photos(tmp_path / "examples", ["dog", "guitar"], 2))
    folder = Folder(quick_copy)
    up_to_the_bundle(*run_arguments(quick_copy, QUICK, "--examples", examples))
    assert folder.work() == Work({"dog": 4, "guitar": 4}, groups=4, trained=True)
    up_to_the_bundle(*run_arguments(quick_copy, QUICK))
    assert folder.work() == Work()


@pytest.mark.slow
def test_with_class_vectors_classes_come_and_go_without_images_or_training(tmp_path: Path) -> None:
    out, weights = tmp_path / "run", tmp_path / "run" / "stages" / "student" / "student.safetensors"
    by_vector = (*QUICK, "student.head=class-vectors")
    assert main(run_arguments(out, by_vector, "--quiet")) == 0
    before = load_file(weights)
    folder = Folder(out)
    clipstill.add_class(run=out, classes=CAT)
    assert folder.work() == Work()
    after = load_file(weights)
    vectors = load_file(out / "stages" / "class_vectors" / "class_vectors.safetensors")["class_vectors"]
    torch.testing.assert_close(after.pop("head.class_vectors"), vectors)
    assert len(before.pop("head.class_vectors")) == 2
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    assert "Added by their vectors alone: cat." in (out / "report.html").read_text()
    up_to_the_bundle("remove-class", str(out), "guitar")
    assert names_of(out) == ("dog", "cat")
    assert folder.work() == Work()
    # The student that was trained is found again.
    up_to_the_bundle(*run_arguments(out, by_vector))
    assert folder.work() == Work()
    assert len(load_file(weights)["head.class_vectors"]) == 2


@pytest.mark.slow
def test_an_addition_that_was_killed_goes_on_by_the_same_command_and_equals_an_uninterrupted_one(
    story: Story, quick_copy: Path
) -> None:
    command = ["add-class", str(quick_copy), CAT]
    kill_before_file("*/surrogate-2/shard-00001.tar", command)
    assert (quick_copy / "stages" / "surrogate-2" / "shard-00000.json").exists()
    assert not (quick_copy / "stages" / "surrogate-2" / "shard-00001.json").exists()
    folder = Folder(quick_copy)
    up_to_the_bundle(*command)
    assert folder.work() == Work({"cat": 2}, groups=1, near_misses=2, trained=True)
    assert student_of(quick_copy) == story["added"].student
    assert shards_of(quick_copy) == story["added"].shards


@pytest.mark.slow
def test_damaged_images_of_a_class_among_others_are_made_anew(quick_copy: Path) -> None:
    up_to_the_bundle("add-class", str(quick_copy), CAT)
    shard = quick_copy / "stages" / "surrogate" / "shard-00000.tar"
    shard.write_bytes(shard.read_bytes()[:-1] + b"x")
    folder = Folder(quick_copy)
    up_to_the_bundle("add-class", str(quick_copy), "cow")
    # The group of the first cohort cannot be made as it was: there are other classes now.
    assert folder.work().images == {"dog": 4, "guitar": 4, "cow": 4}


# Mistakes, each told in one line before anything is touched.


@pytest.fixture
def begun(tmp_path: Path) -> Path:
    """A run that has settings and classes, and nothing else yet."""
    out = tmp_path / "zoo"
    out.mkdir()
    write_json(out / "run.json", {"format": "clipstill-run", "version": FORMAT_VERSION, "threads": 1})
    (out / "config.yaml").write_text("seed: 3\n")
    write_json(out / "task.json", parse_task("dog,sea lion,crane: a bird").to_json())
    return out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("add-class", "cow", "dog"), "has the class 'dog' already"),
        (("add-class", "Sea_Lion"), "has the class 'Sea_Lion' already, spelled 'sea lion'"),
        (("add-class", "crane"), "has the class 'crane' already (a bird)"),
        (("add-class", ": a bird"), "no class name"),
        (("add-class", "cow", "Cow"), "appears twice"),
        (("remove-class", "dgo"), "has no class 'dgo'. Did you mean 'dog'?"),
        (("remove-class", "dog", "crane"), "1 would be left"),
        (("add-class", "cow", "--set", "synthesis.stepz=1"), "stepz"),
        (("add-class", "cow", "--examples", "nowhere"), "nowhere"),
    ],
)
def test_a_mistake_is_one_line_and_changes_nothing(
    begun: Path, arguments: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.read_bytes() for path in begun.iterdir()}
    verb, *rest = arguments
    assert main([verb, str(begun), *rest, "--quiet"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert message in lines[0]
    assert {path: path.read_bytes() for path in begun.iterdir()} == before


def test_only_a_run_of_the_run_command_grows(begun: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_json(begun / "task.json", {**read_json(begun / "task.json"), "photos_listed": True})
    assert main(["add-class", str(begun), "cow"]) == 2
    assert "protocol" in capsys.readouterr().err
    (begun / "config.yaml").unlink()
    assert main(["remove-class", str(begun), "dog"]) == 2
    assert "was not begun" in capsys.readouterr().err
    assert main(["add-class", str(begun.parent), "cow"]) == 2
    assert "is not a clipstill run" in capsys.readouterr().err


def test_a_run_that_learns_from_examples_takes_no_second_folder(
    begun: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = noise_photos(tmp_path / "a", ["dog"], 2), noise_photos(tmp_path / "b", ["cow"], 2)
    (begun / "config.yaml").write_text(f"examples:\n  images: {first}\n")
    assert main(["add-class", str(begun), "cow", "--examples", str(second)]) == 2
    assert "into sub-folders of their own" in capsys.readouterr().err
