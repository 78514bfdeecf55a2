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
from clipstill.core.progress import ProgressEvent, listening
from clipstill.runtime import load_bundle
from clipstill.stages import STAGES
from clipstill.stages.student import collect_training_set
from clipstill.text.task import parse_task
from clipstill.workflow.photos import Photos
from clipstill.workflow.recipes import load_settings
from clipstill.workflow.run import Run
from clipstill.workflow.store import FORMAT_VERSION, read_task
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


def step_of(folder: Folder) -> Step:
    return Step(folder.work(), shards_of(folder.path), names_of(folder.path), student_of(folder.path))


@pytest.fixture(scope="module")
def added(quick_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Story:
    """A class more. Copy the folder to change it."""
    folder = Folder(Path(shutil.copytree(quick_run, tmp_path_factory.mktemp("added") / "run")))
    before = step_of(folder)
    up_to_the_bundle("add-class", str(folder.path), CAT)
    return Story({"named": before, "added": step_of(folder)}, folder.path)


@pytest.fixture(scope="module")
def unlabelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two photos."""
    return noise_photos(tmp_path_factory.mktemp("unlabelled"), ["any"], 2)


@pytest.fixture(scope="module")
def story(added: Story, unlabelled: Path, quick_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Story:
    """A class more, one less, and again, examples of one class and none, photos without labels: one folder."""
    place = tmp_path_factory.mktemp("story")
    out = Path(shutil.copytree(added.out, place / "run"))
    examples = noise_photos(place / "examples", ["dog"], 2)
    folder, steps = Folder(out), dict(added.steps)
    classes = place / "classes.txt"
    classes.write_text(f"dog\n{CAT}\nguitar\n")
    again = ["run", "--classes", str(classes), "--out", str(out), "--config", str(quick_run / "config.yaml")]
    up_to_the_bundle("remove-class", str(out), "Guitar")
    steps["removed"] = step_of(folder)
    up_to_the_bundle("add-class", str(out), "guitar")
    steps["back"] = step_of(folder)
    up_to_the_bundle(*again)
    steps["same by run"] = step_of(folder)
    up_to_the_bundle(*again, "--examples", str(examples))
    steps["examples"] = step_of(folder)
    up_to_the_bundle(*again)
    steps["examples gone"] = step_of(folder)
    assert main([*again, "--examples", str(examples), "--unlabelled", str(unlabelled), "--quiet"]) == 0
    steps["unlabelled"] = step_of(folder)
    return Story(steps, out)


def test_adding_a_class_makes_images_of_it_alone_and_trains_once(added: Story) -> None:
    assert added["added"].work == Work({"cat": 4}, groups=2, near_misses=2, trained=True)
    assert added["added"].labels == ("dog", "guitar", "cat")


@pytest.mark.slow
def test_a_class_that_is_added_outlives_kills_in_its_images_and_in_the_training(
    added: Story, quick_copy: Path, quick_run: Path
) -> None:
    command, before = ["add-class", str(quick_copy), CAT], shards_of(quick_run)
    kill_before_file("*/surrogate-2/shard-00001.tar", command)
    assert names_of(quick_copy) == ("dog", "guitar", "cat")
    kill_before_file("*/student/MANIFEST.json", command)
    assert load_bundle(quick_copy).labels == ("dog", "guitar")
    up_to_the_bundle(*command)
    assert shards_of(quick_copy).items() >= before.items()
    assert shards_of(quick_copy) == added["added"].shards
    assert student_of(quick_copy) == added["added"].student
    assert list(quick_copy.rglob(".tmp-*")) == []


def test_the_same_class_again_goes_on_where_a_kill_left_no_end(
    quick_copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    events = quick_copy / "events.jsonl"
    *before, end = events.read_text().splitlines()
    assert '"end"' in end
    assert main(["add-class", str(quick_copy), "dog"]) == 2
    events.write_text("\n".join(before) + "\n")
    assert main(["add-class", str(quick_copy), "dog"]) == 0
    assert "nothing to do" in capsys.readouterr().err
    assert main(["add-class", str(quick_copy), "dog"]) == 2


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


def test_images_without_examples_are_found_again_when_the_examples_go(story: Story) -> None:
    assert story["examples gone"].work == Work()
    assert story["examples gone"].student == story["back"].student


def test_photos_without_labels_train_and_no_image_is_made(story: Story) -> None:
    assert story["unlabelled"].work == Work(trained=True)
    assert story["unlabelled"].student != story["examples"].student
    history = read_json(story.out / "stages" / "student" / "history.json")
    assert (history["images_made"], history["unlabelled"]) == (12, 2)
    assert history["train_count"] + history["held_out_count"] == history["images"] + 2
    assert "2 unlabelled photos" in (story.out / "bundle" / "card.md").read_text()
    assert "2&nbsp;unlabelled photos" in (story.out / "report.html").read_text()
    # Whoever asks both models about the pictures may take a few of the photos: there may be a hundred thousand.
    settings = load_settings(file=story.out / "config.yaml")
    finished = Run.open(story.out, STAGES, settings, Photos.of(settings, read_task(story.out)))
    assert collect_training_set(finished, most_photos=1).unlabelled == 1


def test_the_bundle_answers_with_the_classes_of_now(story: Story, unlabelled: Path) -> None:
    bundle = load_bundle(story.out)
    assert bundle.labels == ("dog", "cat", "guitar")
    picture = next((unlabelled / "any").glob("*.png"))
    (answer,) = bundle.answer([picture])
    assert {each.label for each in answer.predictions} == {"dog", "guitar", "cat"}


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


def test_a_near_miss_that_is_a_class_now_is_left_out(story: Story, quick_run: Path) -> None:
    before = read_json(quick_run / "stages" / "calibration" / "calibration.json")["refusal"]["near_misses"]
    assert "cat" in before
    after = read_json(story.out / "stages" / "calibration" / "calibration.json")["refusal"]["near_misses"]
    assert "cat" not in after
    assert len(set(after)) == len(after) > 2


@pytest.mark.slow
def test_with_class_vectors_classes_come_and_go_without_images_or_training(quick_copy: Path) -> None:
    out, weights = quick_copy, quick_copy / "stages" / "student" / "student.safetensors"
    by_vector = (*QUICK, "student.head=class-vectors")
    up_to_the_bundle(*run_arguments(out, by_vector))
    before = load_file(weights)
    folder = Folder(out)
    assert clipstill.add_class(run=out, classes=CAT).bundle.labels == ("dog", "guitar", "cat")
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


def test_an_addition_that_was_interrupted_goes_on_by_an_equal_call_and_equals_one_that_was_not(
    added: Story, quick_copy: Path
) -> None:
    def stop(event: ProgressEvent) -> None:
        if event.title == "synthesis" and event.done == 2:
            raise KeyboardInterrupt

    with listening(stop), pytest.raises(KeyboardInterrupt):
        clipstill.add_class(run=quick_copy, classes=CAT)
    assert (quick_copy / "stages" / "surrogate-2" / "shard-00000.json").exists()
    assert not (quick_copy / "stages" / "surrogate-2" / "shard-00001.json").exists()
    folder = Folder(quick_copy)
    up_to_the_bundle("add-class", str(quick_copy), CAT)
    assert folder.work() == Work({"cat": 2}, groups=1, near_misses=2, trained=True)
    assert student_of(quick_copy) == added["added"].student
    assert shards_of(quick_copy) == added["added"].shards


def test_damaged_images_of_a_class_among_others_are_made_anew(added: Story, tmp_path: Path) -> None:
    out = Path(shutil.copytree(added.out, tmp_path / "run"))
    shard = out / "stages" / "surrogate" / "shard-00000.tar"
    shard.write_bytes(shard.read_bytes()[:-1] + b"x")
    folder = Folder(out)
    up_to_the_bundle("add-class", str(out), "cow")
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
