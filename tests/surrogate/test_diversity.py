"""How many different images there are, against closed forms; and further images of look-alikes, whoever makes them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from clipstill.text.further import further_prompts
from clipstill.workflow.workbench import Workbench
from torch import Tensor
from torch.nn.functional import normalize

from clipstill.assembly.training import TeachingSet
from clipstill.core.errors import ArtifactError
from clipstill.core.files import read_json, read_manifest, sha256_file, verify_files
from clipstill.core.seeds import generator_for
from clipstill.distributed.work import ImageGroup, SynthesisWork, Worker
from clipstill.stages import stages
from clipstill.stages.curation import Extended, curation_facts, curation_line, extended
from clipstill.surrogate.dataset import ImageRecord, SurrogateSet
from clipstill.surrogate.diversity import by_class, effective_number, effective_numbers, look_alikes, near_duplicates
from clipstill.surrogate.shards import ShardWriter
from clipstill.text.learned import random_prompts
from clipstill.text.prompts import Prompt
from clipstill.text.styles import FURTHER_STYLES, STYLES
from clipstill.text.task import parse_task
from clipstill.workflow.keys import CLASS_VECTORS, PROMPTS, SURROGATE, stage_keys
from clipstill.workflow.recipes import load_settings
from clipstill.workflow.settings import Settings
from clipstill.workflow.store import RunFolder
from synthesis_fixtures import TinyTeacher, units
from text_fixtures import request


def drawn(*shape: int) -> Tensor:
    return normalize(torch.randn(shape, generator=generator_for("diversity", *shape), dtype=torch.float64), dim=-1)


def test_the_same_image_many_times_is_one() -> None:
    assert effective_number(drawn(1, 7).expand(5, 7)) == pytest.approx(1)


def test_orthogonal_images_count_each() -> None:
    assert effective_number(torch.eye(9)[:6]) == pytest.approx(6)


def test_two_equal_clusters_are_two() -> None:
    assert effective_number(torch.eye(4)[[0, 0, 0, 3, 3, 3]]) == pytest.approx(2)


def test_two_images_at_an_angle_follow_the_binary_entropy() -> None:
    # Eigenvalues of [[1, c], [c, 1]] / 2 are (1 + c) / 2 and (1 - c) / 2.
    cosine = 0.6
    shares = np.array([(1 + cosine) / 2, (1 - cosine) / 2])
    pair = torch.tensor([[1.0, 0.0], [cosine, 0.8]])
    assert effective_number(pair) == pytest.approx(float(np.exp(-(shares * np.log(shares)).sum())))


def test_more_images_than_dimensions_count_the_same_either_way() -> None:
    unit_MD = drawn(40, 5)
    spectrum = torch.linalg.eigvalsh(unit_MD @ unit_MD.T / 40).clamp_min(1e-15)
    assert effective_number(unit_MD) == pytest.approx(float(torch.exp(-(spectrum * spectrum.log()).sum())), rel=1e-6)


def test_what_all_images_share_hides_no_difference() -> None:
    feat_ND, classes = drawn(30, 16), torch.arange(30) % 3
    numbers = effective_numbers(feat_ND, classes, 3)
    assert effective_numbers(feat_ND + 4 * drawn(1, 16), classes, 3) == pytest.approx(numbers)
    assert max(numbers) > 5


def test_what_one_class_shares_is_seen() -> None:
    feat_ND, classes = drawn(30, 16), torch.arange(30) % 3
    feat_ND[classes == 1] = normalize(feat_ND[classes == 1] + 3 * drawn(1, 16), dim=-1)
    numbers = effective_numbers(feat_ND, classes, 3)
    assert numbers[1] < 0.6 * min(numbers[0], numbers[2])
    assert look_alikes(numbers, 0.7) == [1]


def test_a_large_class_does_not_move_the_middle() -> None:
    feat_ND, classes = drawn(12, 8), torch.arange(12) % 2
    once = {class_id: unit_MD for class_id, _, unit_MD in by_class(feat_ND, classes)}
    again = torch.cat([feat_ND, feat_ND[classes == 0]]), torch.cat([classes, classes[classes == 0]])
    twice = {class_id: unit_MD for class_id, _, unit_MD in by_class(*again)}
    assert torch.allclose(once[1], twice[1])


def test_classes_of_one_image_all_over_are_one_image_each() -> None:
    feat_ND = drawn(1, 64).half().expand(10, 64)
    assert effective_numbers(feat_ND, torch.arange(10) % 2, 3) == pytest.approx([1, 1, 0], abs=1e-3)


def test_a_lonely_class_is_not_centred() -> None:
    assert effective_numbers(torch.eye(5), torch.zeros(5, dtype=torch.int64), 1) == pytest.approx([5])


def test_near_duplicates_are_pairs_from_the_cosine_on() -> None:
    unit_MD = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0]])
    assert near_duplicates(unit_MD, 0.7).nonzero().tolist() == [[0, 1], [1, 0]]
    assert not near_duplicates(unit_MD[[0, 0]], 1.0).any()


def test_features_are_read_back_with_their_pictures(tmp_path: Path) -> None:
    images = np.zeros((3, 8, 8, 3), np.uint8)
    records = [ImageRecord(0, 0, i, i, "", 0.0, 1.0, 8, "pixels", 2) for i in range(3)]
    features = drawn(6, 5).half().numpy()
    writer = ShardWriter(tmp_path, "k")
    writer.write_group(0, images, records, None, features[:3])
    writer.write_group(1, images, records, None, features[3:])
    writer.finish()
    made = SurrogateSet.open(tmp_path)
    assert np.array_equal(made.features_ND.numpy(), features)
    chosen = torch.tensor([True, False, False, False, True, True])
    assert torch.equal(made.keep(chosen).features_ND, made.features_ND[chosen])


def test_features_that_do_not_belong_to_the_images_are_refused(tmp_path: Path) -> None:
    records = [ImageRecord(0, 0, 0, 0, "", 0.0, 1.0, 8, "pixels", 2)]
    writer = ShardWriter(tmp_path, "k")
    with pytest.raises(ArtifactError, match=r"float16 \(1, D\) is needed"):
        writer.write_group(0, np.zeros((1, 8, 8, 3), np.uint8), records, None, np.zeros((2, 4), np.float16))
    writer.write_group(0, np.zeros((1, 8, 8, 3), np.uint8), records)
    writer.finish()
    with pytest.raises(ArtifactError, match=r"holds no 000000\.safetensors"):
        _ = SurrogateSet.open(tmp_path).features_ND


def test_an_altered_shard_is_not_measured_but_made_again(tmp_path: Path) -> None:
    records = [ImageRecord(0, 0, 0, 0, "", 0.0, 1.0, 8, "pixels", 2)]
    writer = ShardWriter(tmp_path, "k")
    writer.write_group(0, np.zeros((1, 8, 8, 3), np.uint8), records)
    shard = tmp_path / "shard-00000.tar"
    data = bytearray(shard.read_bytes())
    data[600] ^= 1
    shard.write_bytes(data)
    with pytest.raises(ArtifactError, match="was altered"):
        writer.read(1)
    assert writer.committed() == set()
    with pytest.raises(ArtifactError, match="is missing"):
        writer.read(1)


def test_further_words_are_sixteen_and_new() -> None:
    assert len({style.casefold() for style in FURTHER_STYLES}) == 16
    assert not {style.casefold() for style in FURTHER_STYLES} & {style.casefold() for style in STYLES}


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("default", "a dog in the style of woodcut"),
        ("a {tokens} style of a {class}", "a style of a dog in the style of woodcut"),
        ("the {class}, {style}", "the dog, woodcut"),
        ("oxford_pets", "a photo of a dog, a type of pet in the style of woodcut"),
    ],
)
def test_every_sentence_of_a_strategy_takes_further_styles(template: str, text: str) -> None:
    asked = further_prompts(request(template=template), ("S1", "S2"), [0], 1)
    assert [prompt.text for prompt in asked.prompts] == [text]


def test_further_prompts_go_on_where_the_strategy_ended() -> None:
    of_run = request(per_class=4)
    first = random_prompts(of_run)
    asked = further_prompts(of_run, (*first.style_names, "Woodcut"), [2, 0], 3)
    assert [prompt.class_id for prompt in asked.prompts] == [2, 0] * 3
    assert [prompt.index for prompt in asked.prompts] == [4, 4, 5, 5, 6, 6]
    start = len(first.style_names) + 1
    assert {prompt.style_id for prompt in asked.prompts} == {start, start + 1, start + 2}
    assert asked.style_names[start:] == FURTHER_STYLES[1:4]
    assert not {prompt.seed for prompt in asked.prompts} & {prompt.seed for prompt in first.prompts}
    expected = of_run.teacher.encode_text([prompt.text for prompt in asked.prompts])
    assert torch.allclose(asked.targets_ND, expected, atol=1e-6)


def test_further_prompts_of_a_class_do_not_depend_on_other_classes() -> None:
    alone = further_prompts(request(), STYLES, [1], 20).prompts
    among = further_prompts(request(), STYLES, [0, 1, 2], 20).prompts
    assert alone == [prompt for prompt in among if prompt.class_id == 1]
    assert len({prompt.seed for prompt in alone}) == 20


def test_without_an_unused_word_nothing_is_asked_for() -> None:
    assert further_prompts(request(), [style.upper() for style in FURTHER_STYLES], [0], 3).prompts == []


def synthesis_work(
    config: Settings, prompts: Sequence[Prompt], targets_ND: torch.Tensor, class_vectors_CD: torch.Tensor
) -> SynthesisWork:
    return SynthesisWork(
        key="k",
        teacher=config.teacher.name,
        precision=config.teacher.precision,
        generator=config.generator.name,
        device=config.device,
        settings=config.synthesis,
        prompts=prompts,
        targets_ND=targets_ND,
        class_vectors_CD=class_vectors_CD,
    )


def test_groups_of_further_images_leave_the_others_as_they_were() -> None:
    config = load_settings(overrides=["synthesis.group_size=4", "generator.name=pixels"])
    prompts = [Prompt(0, 0, i, i, "") for i in range(10)]
    work = synthesis_work(config, prompts, torch.zeros(10, 2), torch.eye(2))
    more = work.with_further(prompts[:6], torch.ones(6, 2))
    assert more.groups[: len(work.groups)] == work.groups
    assert [i for group in more.groups for i in group] == list(range(16))
    assert more.targets_ND[10:].min() == 1


def test_further_styles_are_held_out_with_those_that_all_classes_have(tmp_path: Path) -> None:
    records = [ImageRecord(0, style, i, i, "", 0.0, 1.0, 8, "pixels", 2) for i, style in enumerate((0, 1, 2, 3, 4))]
    writer = ShardWriter(tmp_path, "k")
    writer.write_group(0, np.zeros((5, 8, 8, 3), np.uint8), records)
    writer.finish()
    teaching = TeachingSet.of(SurrogateSet.open(tmp_path), None, None, 0.0, 8, styles=3)
    assert teaching.style_id_N.tolist() == [0, 1, 2, 0, 1]


# --- The stage, on a made-up teacher ----------------------------------------------------------------------------------

TINY = (
    "device=cpu",
    "prompts.images_per_class=6",
    "prompts.styles=[photo, sketch]",
    "generator.name=pixels",
    "synthesis.steps=2",
    "synthesis.image_size=32",
    "synthesis.group_size=6",
    "synthesis.bn_weight=0",
    "synthesis.natural_weight=0",
    "curation.least_diversity=0.6",
    "curation.top_up=5",
)
NAMES = "dog,guitar,house"


class Reading(TinyTeacher):
    """With a word for every text."""

    weights_sha256 = "tiny"

    def encode_text(self, texts: Sequence[str]) -> Tensor:
        return torch.cat([units(1, text) for text in texts])


def bench_of(out: Path, *overrides: str) -> Workbench:
    config, task = load_settings(overrides=[*TINY, *overrides]), parse_task(NAMES)
    bench = Workbench(config, task, RunFolder(out, 1), stage_keys(config, task, None), None)
    bench.__dict__["plain_teacher"] = Reading()  # Where a cached property keeps what it has loaded.
    return bench


def make_surrogate(out: Path, *overrides: str) -> dict[str, str]:
    """The stages up to the images; returns the digests of what was made."""
    bench = bench_of(out, *overrides)
    with bench.run:
        steps: tuple[tuple[str, Callable[[Workbench, Path], None]], ...] = (
            (CLASS_VECTORS, stages.make_class_vectors),
            (PROMPTS, stages.make_prompts),
            (SURROGATE, stages.make_surrogate),
        )
        for stage, make in steps:
            bench.run.prepare_stage(stage, bench.keys[stage])
            if read_manifest(bench.run.stage(stage)) is None:
                make(bench, bench.run.stage(stage))
        folder = bench.run.stage(SURROGATE)
        manifest = read_manifest(folder)
        assert manifest is not None
        verify_files(folder, manifest)
        return {name: digest for name, digest in manifest.files.items() if not name.startswith("shard-0000")} | {
            path.name: sha256_file(path) for path in folder.glob("*.tar")
        }


@pytest.fixture
def guitars_look_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    """The teacher sees one and the same in the first images of class 1, and chance in all others."""
    real = Worker.make

    def make(worker: Worker, number: int, watch: Any = None) -> ImageGroup:
        made = real(worker, number, watch)
        for row, record in enumerate(made.records):
            alike = record.class_id == 1 and record.index < 6
            made.features_ND[row] = units(1, "guitar" if alike else f"image {record.seed}").half().numpy()
        return made

    monkeypatch.setattr(Worker, "make", make)


@pytest.mark.usefixtures("guitars_look_alike")
def test_a_class_of_look_alikes_gets_images_in_further_styles(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = make_surrogate(tmp_path / "run")
    folder = tmp_path / "run" / "stages" / "surrogate"
    records = SurrogateSet.open(folder).records
    assert Counter(record.class_id for record in records) == {0: 6, 1: 11, 2: 6}
    further = [record for record in records if record.class_id == 1 and record.style_id >= 2]
    assert [record.prompt for record in further] == [
        f"a guitar in the style of {style}" for style in FURTHER_STYLES[:5]
    ]
    facts = read_json(folder / "curation.json")
    assert "curation.json" in files
    assert facts["styles"] == ["photo", "sketch", *FURTHER_STYLES[:5]]
    dog, guitar, house = facts["classes"]
    assert (guitar["made"], guitar["topped_up"], guitar["not_made"]) == (11, 5, 0)
    assert guitar["effective_number_before"] == 1.0
    assert guitar["effective_number"] > 2
    assert (dog["topped_up"], dog["effective_number_before"], house["made"]) == (0, None, 6)
    told = capsys.readouterr().err
    assert "too much alike beside the median class" in told
    assert "guitar (1.0); 5 further images each" in told


@pytest.mark.usefixtures("guitars_look_alike")
@pytest.mark.parametrize("groups", [3, 5, 6])
def test_a_kill_before_between_or_among_further_groups_changes_no_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, groups: int
) -> None:
    whole = make_surrogate(tmp_path / "whole", "synthesis.group_size=4")
    assert len([name for name in whole if name.endswith(".tar")]) == 7  # five, and two with further images
    makes, calls = Worker.make, []

    def at_most(worker: Worker, number: int, watch: Any = None) -> ImageGroup:
        calls.append(number)
        if len(calls) > groups:
            raise KeyboardInterrupt
        return makes(worker, number, watch)

    monkeypatch.setattr(Worker, "make", at_most)
    with pytest.raises(KeyboardInterrupt):
        make_surrogate(tmp_path / "run", "synthesis.group_size=4")
    monkeypatch.setattr(Worker, "make", makes)
    folder = tmp_path / "run" / "stages" / "surrogate"
    kept = {path.name: path.stat().st_mtime_ns for path in folder.glob("*.tar")}
    assert len(kept) == groups
    assert make_surrogate(tmp_path / "run", "synthesis.group_size=4") == whole
    assert {name: (folder / name).stat().st_mtime_ns for name in kept} == kept


@pytest.mark.usefixtures("guitars_look_alike")
def test_switched_off_the_first_images_are_the_same(tmp_path: Path) -> None:
    on = make_surrogate(tmp_path / "on")
    off = make_surrogate(tmp_path / "off", "curation.least_diversity=0")
    shards = [name for name in off if name.endswith(".tar")]
    assert len(shards) == 3
    assert all(on[name] == off[name] for name in shards)
    facts = read_json(tmp_path / "off" / "stages" / "surrogate" / "curation.json")
    assert [each["topped_up"] for each in facts["classes"]] == [0, 0, 0]


def test_features_in_a_set_are_those_of_its_pictures(tmp_path: Path) -> None:
    make_surrogate(tmp_path / "run", "curation.least_diversity=0")
    made = SurrogateSet.open(tmp_path / "run" / "stages" / "surrogate")
    expected = Reading().encode_image(made.pixels_N3HW.float() / 255)
    assert torch.allclose(made.features_ND.float(), expected, atol=1e-3)


def test_only_what_draws_further_images_makes_images_again() -> None:
    config, task = load_settings(), parse_task(NAMES)
    before = stage_keys(config, task, None)

    def changed(**values: float) -> set[str]:
        curation = config.curation.model_copy(update=values)
        after = stage_keys(config.model_copy(update={"curation": curation}), task, None)
        return {stage for stage, key in after.items() if before[stage] != key}

    assert SURROGATE not in changed(duplicate_cosine=0.5, min_score=0.1, top_up=3)
    assert SURROGATE in changed(least_diversity=0.5)


def test_a_class_without_any_image_is_told_as_such() -> None:
    records = [ImageRecord(0, 0, i, i, "", 0.0, 0.5, 8, "pixels", 2) for i in range(2)]
    made = SurrogateSet([(Path("none"), "")] * 2, records)
    made.__dict__["features_ND"] = torch.eye(2)
    prompts = [Prompt(class_id, 0, i, i, "") for i in range(2) for class_id in range(2)]
    work = synthesis_work(load_settings(), prompts, torch.zeros(4, 2), torch.eye(2))
    facts = curation_facts(made, Extended(work, 1, ("",), {}), ("dog", "guitar"))
    dog, guitar = facts["classes"]
    assert (dog["mean_score"], dog["effective_number"]) == (0.5, 2.0)
    assert (guitar["made"], guitar["not_made"], guitar["mean_score"], guitar["effective_number"]) == (0, 2, None, 0.0)
    assert curation_line(facts) == "2 images; as many different ones a class as 0.0 (guitar) to 2.0 (dog), median 1.0"


def test_further_targets_go_towards_examples() -> None:
    of_run = request()
    config = load_settings(overrides=["curation.least_diversity=0.9", "curation.top_up=2"])
    records = [ImageRecord(i % 3, 0, i, i, "", 0.0, 0.5, 8, "pixels", 2) for i in range(9)]
    made = SurrogateSet([(Path("none"), "")] * 9, records)
    features_ND = torch.eye(9)
    features_ND[made.class_id_N == 2] = torch.eye(9)[2]
    made.__dict__["features_ND"] = features_ND
    work = synthesis_work(config, [], torch.zeros(0, 16), of_run.class_vectors_CD)
    asked = extended(work, made, config.curation, of_run, STYLES, lambda targets_ND, class_ids: -targets_ND)
    plain = further_prompts(of_run, STYLES, [2], 2)
    assert torch.equal(asked.work.targets_ND, -plain.targets_ND)
    assert asked.before == {2: pytest.approx(1)}
    assert extended(work, made, load_settings().curation, of_run, STYLES, lambda a, b: a).work is work
