"""Classes come and go, examples and photos come, on one run folder: what is done again is counted."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from clipstill.workflow.growth import grown
from clipstill.workflow.workbench import Workbench
from PIL import Image
from safetensors.torch import load_file

import clipstill
from clipstill.assembly import training as teaching
from clipstill.assembly import zero_shot
from clipstill.cli.main import main
from clipstill.core.files import commit_manifest, read_json, sha256_file, write_json
from clipstill.core.images import ImageFolder
from clipstill.core.seeds import generator_for
from clipstill.distributed.work import Worker
from clipstill.stages import stages
from clipstill.text.task import parse_task
from clipstill.workflow.cohorts import Evidence, Growth, Ledger, Taught
from clipstill.workflow.keys import SettingKeys, stage_keys
from clipstill.workflow.recipes import load_settings

TINY = (
    "threads=1",
    "device=cpu",
    "evaluation.ladder=false",
    "export.formats=[onnx]",
    "seed=3",
    "teacher.name=embedded-s",
    "generator.name=pixels",
    "prompts.images_per_class=4",
    "prompts.styles=[photo, sketch]",
    "synthesis.steps=2",
    "synthesis.image_size=32",
    "synthesis.group_size=2",
    "curation.min_score=0",
    "refusal.images=1",
    "student.name=timm:test_efficientnet",
    "student.init=scratch",
    "student.image_size=32",
    "distillation.steps=3",
    "distillation.batch=4",
    "distillation.views=1",
    "distillation.held_out_styles=1",
)
CAT = "cat: a pet, with whiskers"
pytestmark = pytest.mark.usefixtures("own_torch_settings")


def run_arguments(out: Path, *more: str) -> list[str]:
    settings = [part for setting in TINY for part in ("--set", setting)]
    return ["run", "--classes", "dog,guitar", "--out", str(out), "--quiet", *settings, *more]


def pictures(folder: Path, *names: str) -> Path:
    """Two random pictures in each sub-folder."""
    for name in names:
        (folder / name).mkdir(parents=True)
        for number in range(2):
            pixels = torch.randint(0, 256, (9, 9, 3), generator=generator_for(name, number), dtype=torch.uint8)
            Image.fromarray(pixels.numpy()).resize((40, 40)).save(folder / name / f"{number}.png")
    return folder


@dataclass
class Work:
    """What was done since it was last looked at.

    Attributes:
        images: made of each class, by name.
        groups: of them.
        near: images of near misses.
        taught: students.
        encoded: example images that the teacher was shown.
    """

    images: dict[str, int] = field(default_factory=dict)
    groups: int = 0
    near: int = 0
    taught: int = 0
    encoded: int = 0

    def taken(self) -> "Work":
        """What was done; counting starts again."""
        found = replace(self, images=self.images)
        self.images, self.groups, self.near, self.taught, self.encoded = {}, 0, 0, 0, 0
        return found


@pytest.fixture(scope="module")
def work() -> Iterator[Work]:
    """Counts all that runs of this file do."""
    seen, near_now = Work(), []
    make, distil, encode, alone = Worker.make, teaching.distil, zero_shot.encoded, stages.make_alone

    def counting_make(self: Worker, number: int, watch: Any = None) -> Any:
        made = make(self, number, watch)
        seen.groups += not near_now
        seen.near += len(made.records) * bool(near_now)
        for record in made.records if not near_now else ():
            name = next(name for name in ("dog", "guitar", "cat", "cow") if name in record.prompt)
            seen.images[name] = seen.images.get(name, 0) + 1
        return made

    def counting_distil(*arguments: Any, **named: Any) -> Any:
        seen.taught += 1
        return distil(*arguments, **named)

    def counting_encode(*arguments: Any) -> Any:
        found = encode(*arguments)
        seen.encoded += len(found[1])
        return found

    def telling_alone(*arguments: Any) -> None:
        near_now.append(True)
        alone(*arguments)
        near_now.clear()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Worker, "make", counting_make)
        patch.setattr(teaching, "distil", counting_distil)
        patch.setattr(zero_shot, "encoded", counting_encode)
        patch.setattr(stages, "make_alone", telling_alone)
        yield seen


def shards_of(out: Path) -> dict[str, str]:
    """Every shard of images of classes -> its sha256."""
    found = (out / "stages").rglob("surrogate*/shard-*.tar")
    return {f"{path.parent.name}/{path.name}": sha256_file(path) for path in found}


def names_of(out: Path) -> tuple[str, ...]:
    return tuple(read_json(out / "task.json")["names"])


def student_of(out: Path) -> str:
    return sha256_file(out / "stages" / "student" / "student.safetensors")


@dataclass
class Step:
    """One call of the story, and what it left."""

    work: Work
    shards: dict[str, str]
    labels: tuple[str, ...]
    student: str


@pytest.fixture(scope="module")
def first(work: Work, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Work]:
    """A finished run of two classes, and what was done for it."""
    out = tmp_path_factory.mktemp("named") / "run"
    assert main(run_arguments(out)) == 0
    return out, work.taken()


@pytest.fixture(scope="module")
def named(first: tuple[Path, Work]) -> Path:
    """The finished run, which is not changed."""
    return first[0]


@pytest.fixture(scope="module")
def quick(named: Path) -> Iterator[None]:
    """Later runs take the first one's bundle for their own: exporting takes longer than all else together."""

    def copied(bench: Workbench, folder: Path) -> None:
        shutil.copytree(named / "bundle", folder, dirs_exist_ok=True)
        commit_manifest(folder, bench.keys["bundle"], list(read_json(folder / "MANIFEST.json")["files"]))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stages, "make_bundle", copied)
        yield


@pytest.fixture(scope="module")
def story(
    first: tuple[Path, Work], quick: None, work: Work, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Step]:
    """Names, a class more, one less, and again, examples of one class, photos without labels: one folder."""
    folder = tmp_path_factory.mktemp("story")
    out = folder / "run"
    shutil.copytree(first[0], out)
    work.taken()
    examples, photos = pictures(folder / "examples", "dog"), pictures(folder / "photos", "any")
    steps = {"named": Step(first[1], shards_of(out), names_of(out), student_of(out))}

    def step(name: str, *arguments: str) -> None:
        assert main([*arguments, "--quiet"]) == 0
        steps[name] = Step(work.taken(), shards_of(out), names_of(out), student_of(out))

    classes = folder / "classes.txt"
    classes.write_text(f"dog\n{CAT}\nguitar\n")
    again = ["run", "--classes", str(classes), "--out", str(out), "--config", str(out / "config.yaml")]
    step("added", "add-class", str(out), CAT)
    step("removed", "remove-class", str(out), "Guitar")
    step("back", "add-class", str(out), "guitar")
    step("same by run", *again)
    step("examples", *again, "--examples", str(examples))
    step("unlabelled", *again, "--unlabelled", str(photos))
    return steps


def test_the_bundle_answers_with_the_class_that_was_added(named: Path, work: Work, tmp_path: Path) -> None:
    out = tmp_path / "run"
    shutil.copytree(named, out)
    bundle = clipstill.add_class(out, [CAT])
    assert bundle.labels == ("dog", "guitar", "cat")
    picture = pictures(tmp_path / "any", "cat") / "cat" / "0.png"
    assert {each.label for each in bundle.predict(picture)} == {"dog", "guitar", "cat"}


def test_adding_a_class_makes_images_of_it_alone_and_teaches_once(story: dict[str, Step]) -> None:
    assert story["named"].work == Work({"dog": 4, "guitar": 4}, groups=4, near=4, taught=1)
    assert story["added"].work == Work({"cat": 4}, groups=2, near=2, taught=1)
    assert story["added"].labels == ("dog", "guitar", "cat")


def test_removing_a_class_makes_no_image_and_bringing_it_back_finds_its_own(story: dict[str, Step]) -> None:
    assert story["removed"].work == Work(taught=1)
    assert story["removed"].labels == ("dog", "cat")
    assert story["back"].work == Work(taught=1)
    assert story["back"].labels == ("dog", "cat", "guitar")


def test_the_run_command_with_the_grown_list_finds_all_done(story: dict[str, Step]) -> None:
    assert story["same by run"].work == Work()
    assert story["same by run"].student == story["back"].student


def test_examples_draw_anew_the_classes_that_have_some_and_the_teacher_sees_those_alone(story: dict[str, Step]) -> None:
    assert story["examples"].work == Work({"dog": 4}, groups=2, taught=1, encoded=2)


def test_photos_without_labels_teach_and_no_image_is_made(story: dict[str, Step]) -> None:
    assert story["unlabelled"].work == Work(taught=1)
    assert story["unlabelled"].student != story["examples"].student


def test_images_that_were_made_stay_the_same_bytes(story: dict[str, Step]) -> None:
    for before, after in pairwise(story.values()):
        assert before.shards.items() <= after.shards.items()
    assert len(story["added"].shards) == 6


def test_report_and_facts_tell_of_all_cohorts(story: dict[str, Step], tmp_path_factory: pytest.TempPathFactory) -> None:
    out = next(tmp_path_factory.getbasetemp().glob("story*")) / "run"
    page = (out / "report.html").read_text()
    assert all(f"a {name} in the style of sketch" in page for name in ("dog", "cat, a pet, with whiskers", "guitar"))
    kept = read_json(out / "stages" / "student" / "kept.json")
    assert [each["kept"] for each in kept] == [4, 4, 4]
    history = read_json(out / "stages" / "student" / "history.json")
    assert (history["images_made"], history["unlabelled"]) == (12, 2)


def test_a_near_miss_that_is_a_class_now_is_left_out(
    story: dict[str, Step], named: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    before = read_json(named / "stages" / "calibration" / "calibration.json")["refusal"]["near_misses"]
    assert "cat" in before
    out = next(tmp_path_factory.getbasetemp().glob("story*")) / "run"
    after = read_json(out / "stages" / "calibration" / "calibration.json")["refusal"]["near_misses"]
    assert "cat" not in after
    assert len(set(after)) == len(after) > 2


def test_a_folder_of_before_there_were_cohorts_is_up_to_date_and_grows(
    named: Path, quick: None, work: Work, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    shutil.copytree(named, out)
    stored = read_json(out / "task.json")
    write_json(out / "task.json", {name: stored[name] for name in ("names", "descriptions")})
    config = (out / "config.yaml").read_text()
    (out / "config.yaml").write_text(re.sub(r"(?ms)^growth:.*?(?=^\w)", "", config))
    work.taken()
    assert main(run_arguments(out, "--json")) == 0
    assert json.loads(capsys.readouterr().out)["up_to_date"] is True
    write_json(out / "task.json", {name: stored[name] for name in ("names", "descriptions")})
    clipstill.add_class(out, CAT)
    assert names_of(out) == ("dog", "guitar", "cat")
    assert work.taken() == Work({"cat": 4}, groups=2, near=2, taught=1)


def test_drawn_images_may_be_kept_when_examples_come(named: Path, quick: None, work: Work, tmp_path: Path) -> None:
    out, examples = tmp_path / "run", pictures(tmp_path / "examples", "dog", "guitar")
    shutil.copytree(named, out)
    work.taken()
    assert main(run_arguments(out, "--examples", str(examples), "--set", "growth.redraw=false")) == 0
    assert work.taken() == Work(taught=1, encoded=4)
    assert main(run_arguments(out, "--examples", str(examples))) == 0
    assert work.taken() == Work({"dog": 4, "guitar": 4}, groups=4, taught=1)
    assert main(run_arguments(out)) == 0
    assert work.taken() == Work()


def test_with_class_vectors_classes_come_and_go_without_images_or_teaching(
    work: Work, quick: None, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    assert main(run_arguments(out, "--set", "student.head=class-vectors")) == 0
    before = load_file(out / "stages" / "student" / "student.safetensors")
    work.taken()
    clipstill.add_class(out, CAT)
    assert work.taken() == Work()
    after = load_file(out / "stages" / "student" / "student.safetensors")
    vectors = load_file(out / "stages" / "class_vectors" / "class_vectors.safetensors")["class_vectors"]
    torch.testing.assert_close(after.pop("head.class_vectors"), vectors)
    assert len(before.pop("head.class_vectors")) == 2
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    assert "Added by their vectors alone: cat." in (out / "report.html").read_text()
    clipstill.remove_class(out, "guitar")
    assert names_of(out) == ("dog", "cat")
    assert work.taken() == Work()
    # The student that was taught is found again.
    assert main(run_arguments(out, "--set", "student.head=class-vectors")) == 0
    assert work.taken() == Work()
    assert len(load_file(out / "stages" / "student" / "student.safetensors")["head.class_vectors"]) == 2
    more = run_arguments(out, "--set", "student.head=class-vectors", "--set", "growth.by_vector=false")
    more[more.index("--classes") + 1] = "dog,guitar,cat"
    assert main(more) == 0
    assert work.taken() == Work({"cat": 4}, groups=2, near=2, taught=1)


# Ends the process as SIGKILL does, from inside, at the second group of the new class.
KILLER = """
import os, signal, sys
from clipstill.cli.main import main
from clipstill.surrogate.shards import ShardWriter

original = ShardWriter.write_group

def write_group(self, number, *arguments):
    if number == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    original(self, number, *arguments)

ShardWriter.write_group = write_group
main(sys.argv[1:])
"""


def test_an_addition_that_was_killed_goes_on_by_the_same_command_and_equals_an_uninterrupted_one(
    story: dict[str, Step], named: Path, quick: None, work: Work, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    shutil.copytree(named, out)
    command = ["add-class", str(out), CAT, "--quiet"]
    done = subprocess.run([sys.executable, "-c", KILLER, *command], capture_output=True, text=True)
    assert done.returncode == -9, done.stderr
    assert (out / "stages" / "surrogate-2" / "shard-00000.json").exists()
    assert not (out / "stages" / "surrogate-2" / "shard-00001.json").exists()
    work.taken()
    assert main(command) == 0
    assert work.taken() == Work({"cat": 2}, groups=1, near=2, taught=1)
    assert student_of(out) == story["added"].student
    assert shards_of(out) == story["added"].shards


def test_damaged_images_of_a_class_among_others_are_made_anew(
    named: Path, quick: None, work: Work, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    shutil.copytree(named, out)
    assert main(["add-class", str(out), CAT, "--quiet"]) == 0
    shard = out / "stages" / "surrogate" / "shard-00000.tar"
    shard.write_bytes(shard.read_bytes()[:-1] + b"x")
    work.taken()
    assert main(["add-class", str(out), "cow", "--quiet"]) == 0
    # The group of the first cohort cannot be made as it was: there are other classes now.
    found = work.taken()
    assert found.images == {"dog": 4, "guitar": 4, "cow": 4}


# What serves the classes, without any model: a ledger, settings, and the plan that follows.


def plan_of(ledger: Ledger, classes: str, *overrides: str) -> tuple[Growth, Ledger]:
    return grown(SettingKeys(load_settings(overrides=overrides)), parse_task(classes), None, None, ledger)


def all_done(ledger: Ledger) -> Ledger:
    for cohort in (*ledger.images, *ledger.near_misses):
        ledger = ledger.with_done(cohort.key)
    return ledger


def used(growth: Growth) -> list[tuple[int, tuple[str, ...]]]:
    return [(part.cohort.number, part.used) for part in growth.images]


@pytest.mark.parametrize(
    "overrides", [(), ("refusal.near_misses=0",), ("prompts.images_per_class=0", "refusal.near_misses=0")]
)
def test_an_empty_folder_has_the_keys_of_a_plain_run(overrides: tuple[str, ...]) -> None:
    config, task = load_settings(overrides=overrides), parse_task("dog,cat: a pet")
    growth, _ = grown(SettingKeys(config), task, None, None, Ledger())
    assert stage_keys(config, task, None, growth=growth) == stage_keys(config, task, None)
    assert not any("-" in stage for stage in stage_keys(config, task, None))


def test_a_cohort_that_is_not_finished_serves_only_the_classes_it_was_begun_for() -> None:
    _, ledger = plan_of(Ledger(), "dog,cat")
    assert used(plan_of(ledger, "dog,cat")[0]) == [(1, ("dog", "cat"))]
    growth, _ = plan_of(ledger, "dog,cat,cow")
    assert used(growth) == [(1, ("dog", "cat", "cow"))]
    assert growth.images[0].cohort.key != ledger.images[0].key


def test_images_that_are_not_finished_are_begun_anew_when_examples_come(tmp_path: Path) -> None:
    """Those of the other classes would be told apart by vectors that examples have moved."""
    _, ledger = plan_of(Ledger(), "dog,cat")
    task, by = parse_task("dog,cat"), SettingKeys(load_settings())
    examples = ImageFolder.open(pictures(tmp_path, "dog"), task.names)
    assert used(grown(by, task, examples, None, ledger)[0]) == [(1, ("dog", "cat"))]
    assert used(grown(by, task, examples, None, all_done(ledger))[0]) == [(1, ("cat",)), (2, ("dog",))]


def test_another_description_is_another_class_and_another_order_is_not() -> None:
    ledger = all_done(plan_of(Ledger(), "dog,crane")[1])
    assert used(plan_of(ledger, "crane,dog")[0]) == [(1, ("crane", "dog"))]
    assert used(plan_of(ledger, "dog,crane: a machine")[0]) == [(1, ("dog",)), (2, ("crane",))]


def test_other_settings_draw_all_classes_together_and_the_old_ones_find_their_cohorts() -> None:
    ledger = all_done(plan_of(Ledger(), "dog,cat")[1])
    ledger = all_done(plan_of(ledger, "dog,cat,cow")[1])
    assert used(plan_of(ledger, "dog,cat,cow")[0]) == [(1, ("dog", "cat")), (2, ("cow",))]
    other, ledger = plan_of(ledger, "dog,cat,cow", "synthesis.steps=3")
    assert used(other) == [(1, ("dog", "cat", "cow"))]
    task = parse_task("dog,cat,cow")
    config = load_settings(overrides=["synthesis.steps=3"])
    assert stage_keys(config, task, None, growth=other) == stage_keys(config, task, None)
    assert used(plan_of(all_done(ledger), "dog,cat,cow")[0]) == [(1, ("dog", "cat")), (2, ("cow",))]


def test_two_cohorts_of_one_folder_get_one_each_when_both_are_in_use() -> None:
    ledger = all_done(plan_of(Ledger(), "dog,cat")[1])
    ledger = all_done(plan_of(ledger, "cow,horse")[1])  # None of the first: the folder changes hands.
    assert [cohort.number for cohort in ledger.images] == [1, 1]
    growth, ledger = plan_of(ledger, "dog,cat,cow,horse")
    assert used(growth) == [(1, ("dog", "cat")), (2, ("cow", "horse"))]
    assert [cohort.number for cohort in ledger.images] == [1, 2]


def test_only_the_student_s_own_settings_leave_all_images_in_use() -> None:
    ledger = all_done(plan_of(Ledger(), "dog,cat")[1])
    ledger = all_done(plan_of(ledger, "dog,cat,cow")[1])
    before, after = (plan_of(ledger, "dog,cat,cow", *more)[0] for more in ((), ("student.image_size=64",)))
    assert before == after


def test_a_ledger_comes_back_from_json() -> None:
    _, ledger = plan_of(Ledger(), "dog,crane: a bird")
    ledger = ledger.with_taught(Taught(ledger.images[0].task, Evidence(), "a", "b"))
    assert Ledger.from_json(json.loads(json.dumps(ledger.to_json()))) == ledger


# Mistakes, each told in one line before anything is touched.


@pytest.fixture
def begun(tmp_path: Path) -> Path:
    """A run that has settings and classes, and nothing else yet."""
    out = tmp_path / "zoo"
    out.mkdir()
    write_json(out / "run.json", {"format": "clipstill-run", "version": 1, "threads": 1})
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
    write_json(begun / "task.json", {**read_json(begun / "task.json"), "photos_given": True})
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
    first, second = pictures(tmp_path / "a", "dog"), pictures(tmp_path / "b", "cow")
    (begun / "config.yaml").write_text(f"examples:\n  images: {first}\n")
    assert main(["add-class", str(begun), "cow", "--examples", str(second)]) == 2
    assert "into sub-folders of their own" in capsys.readouterr().err
