"""A teacher's image tower as a student: what it computes, what of it learns, resume, and the file it ships as."""

from __future__ import annotations

from functools import cache
from itertools import count
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from authors_fixtures import dassl_file, image_vectors, projected, student_state, teacher_state
from clipstill.assembly.students import new_student
from clipstill.core.errors import ConfigError
from clipstill.core.protocols import Teacher
from clipstill.core.seeds import generator_for
from clipstill.distillation.losses import distillation_loss
from clipstill.distillation.optimisation import Optimiser
from clipstill.distillation.randomness import batch_rows
from clipstill.distillation.settings import DistilSettings
from clipstill.distillation.soft_labels import SoftLabels
from clipstill.distillation.trainer import distil
from clipstill.distillation.training_data import Batch, TrainingData
from clipstill.students.class_vectors_head import ClassVectorsHead
from clipstill.students.settings import StudentSettings
from clipstill.students.student import Backbone, Student, TowerStudent
from clipstill.teachers import load_teacher
from clipstill.teachers.image_backbones import image_backbone
from clipstill.teachers.prompted import PromptedTeacher, load_prompts
from clipstill.workflow.recipes import load_settings
from golden import golden
from openclip_fixtures import CPU, architectures, loaded, pictures  # noqa: F401

VECTORS = normalize(torch.randn(3, 24, generator=generator_for("tower vectors")), dim=-1)


@cache
def small() -> Teacher:
    return load_teacher("embedded-s", CPU)


def student_of(teacher: Teacher, size: int, prompts: int = 2, depth: int = 2) -> TowerStudent:
    network = image_backbone(teacher, tokens=prompts, depth=depth, image_size=size)
    preprocess = type(teacher.preprocess)(size, teacher.preprocess.mean, teacher.preprocess.std)
    student = TowerStudent(Backbone(f"tower:{teacher.name}", network, preprocess, teacher.provenance), 3)
    student.use_class_vectors(VECTORS, 20.0, layers=2)
    return student


def training_data(size: int) -> TrainingData:
    pixels_N3HW = torch.randint(0, 256, (8, 3, size, size), generator=generator_for("tower"), dtype=torch.uint8)
    return TrainingData(pixels_N3HW, torch.full((8,), -1), torch.full((8,), -1))


SETTINGS = DistilSettings(
    steps=4,
    batch=4,
    freeze="bn",
    ema=0.0,
    held_out_styles=0,
    keep="last",
    checkpoint_every=2,
    lr=0.01,
    optimiser="momentum",
)


@pytest.mark.parametrize("named", ["file", "folder"])
def test_a_student_of_the_authors_code_answers_as_its_equations_say(tmp_path: Path, named: str) -> None:
    state = student_state()
    path = dassl_file(tmp_path / "DTD/VLPromptLearner/model-best.pth.tar", state)
    tower = loaded(tmp_path)[1]
    section = StudentSettings(name=f"tower:{tower.name}", prompts=2, prompt_depth=2, image_size=32)
    student = new_student(section, 3, path if named == "file" else tmp_path / "DTD", seed=0)
    student.use_class_vectors(VECTORS, 1.0)
    x_N3HW = pictures()
    unit = normalize(projected(state, image_vectors(state, (x_N3HW - student.mean) / student.std)), dim=-1)
    expected = state["logit_scale"].double().exp() * unit @ VECTORS.double().T
    with torch.no_grad():
        assert torch.allclose(student(x_N3HW).double(), expected, atol=0.02)
        assert expected.std() > 1
        # What the file says, and not how a new student begins.
        started = new_student(section, 3, "pretrained", seed=0)
        started.use_class_vectors(VECTORS, float(started.logit_scale or 0), layers=2)
        assert not torch.allclose(started(x_N3HW).double(), expected, atol=1)


def authors_pair(tmp_path: Path) -> tuple[PromptedTeacher, Student, Tensor]:
    """Teacher and student of checkpoints in the authors' layout, in float32, and the teacher's class vectors."""
    tower = loaded(tmp_path, "tiny-vit-quickgelu")[1]
    of_teacher, of_student = (
        dassl_file(tmp_path / f"{make.__name__}.pth.tar", make(architecture="tiny-vit-quickgelu", dtype=torch.float32))
        for make in (teacher_state, student_state)
    )
    teacher = load_prompts(tower, of_teacher)
    section = StudentSettings(name=f"tower:{tower.name}", prompts=2, prompt_depth=2, image_size=32)
    student = new_student(section, 3, of_student, seed=0)
    vectors_CD = teacher.class_vectors(["dog", "sea_horse", "grand piano"]).detach()
    student.use_class_vectors(vectors_CD, 1.0)
    return teacher, student, vectors_CD


def test_a_teacher_and_its_student_are_those_of_the_code_of_promptkd(tmp_path: Path) -> None:
    """Logits of checkpoints in the authors' layout, and the loss, gradient and statistics of a step, all float32."""
    expected, settings, x_N3HW = golden("promptkd"), load_settings("promptkd").distillation, pictures()
    teacher, student, vectors_CD = authors_pair(tmp_path)
    labels = SoftLabels(teacher, vectors_CD)
    with torch.no_grad():
        teacher_NC = labels.logits(labels.vectors(x_N3HW))
    batch = Batch(x_N3HW, teacher_NC, torch.zeros(len(x_N3HW), dtype=torch.long))
    student_NC = student(x_N3HW)
    assert teacher_NC.tolist() == [pytest.approx(row, abs=1e-4) for row in expected["teacher_logits"]]
    assert student_NC.tolist() == [pytest.approx(row, abs=1e-4) for row in expected["student_logits"]]
    loss = distillation_loss(student_NC, batch, settings).mean()
    assert float(loss.detach()) == pytest.approx(expected["loss_in_evaluation"], rel=1e-5)

    student.train()
    loss = distillation_loss(student(x_N3HW), batch, settings).mean()
    assert float(loss.detach()) == pytest.approx(expected["loss"], rel=1e-5)
    loss.backward()
    gradients = {name: value.grad for name, value in student.named_parameters() if value.grad is not None}
    prompts_KPE = gradients.pop("backbone.prompts.tokens_KPE")
    assert prompts_KPE.norm(dim=(1, 2)).tolist() == pytest.approx(expected["gradient_norms"]["prompts"], rel=1e-4)
    norms = {name.removeprefix("head.projector."): float(value.norm()) for name, value in gradients.items()}
    # The bias before BatchNorm has no gradient but rounding.
    assert norms == pytest.approx(expected["gradient_norms"]["projector"], rel=1e-4, abs=0.01)
    statistics = student.state_dict()
    for name in ("running_mean", "running_var"):
        found = statistics[f"head.projector.1.{name}"][:4].tolist()
        assert found == pytest.approx(expected[name], rel=1e-5)


def test_five_epochs_end_with_the_prompts_and_logits_of_the_code_of_promptkd(tmp_path: Path) -> None:
    """On pictures of one colour, whose views are all alike. By design vectors do not decay: see the last line."""
    expected = golden("promptkd")["five_epochs"]
    settings = load_settings("promptkd").distillation.changed(epochs=5, batch=4, kd_weight=10.0)
    teacher, student, vectors_CD = authors_pair(tmp_path)
    colours = torch.randint(0, 256, (8, 3, 1, 1), generator=generator_for("golden colours"), dtype=torch.uint8)
    x_N3HW = colours.expand(-1, -1, 32, 32).contiguous()
    assert expected["rows"] == [batch_rows(step, 8, 4, (0, "all")).tolist() for step in range(10)]
    data = TrainingData.of_no_class(x_N3HW)
    result = distil(student, SoftLabels(teacher, vectors_CD), data, settings=settings, folder=tmp_path / "work")
    assert result.history[-1]["loss"] == pytest.approx(fmean(expected["losses"]), rel=1e-5)
    learned = student.state_dict()
    torch.testing.assert_close(
        learned["backbone.prompts.tokens_KPE"], torch.tensor(expected["prompts"]), atol=1e-5, rtol=0
    )
    with torch.no_grad():
        logits_NC = student(x_N3HW / 255)
    torch.testing.assert_close(logits_NC, torch.tensor(expected["student_logits"]), atol=1e-3, rtol=0)
    # Ten steps of the authors' decay of BatchNorm's weights, which are about one.
    apart = learned["head.projector.1.weight"] - torch.tensor(expected["batchnorm_weight"])
    assert 1e-5 < apart.abs().max() < 1e-4


def test_the_rates_of_each_epoch_are_those_of_dassl() -> None:
    settings = load_settings("promptkd").distillation
    schedule = Optimiser(torch.nn.Linear(2, 2), settings, steps=settings.epochs)
    rates = [settings.head_lr * schedule.rate(step) for step in range(settings.epochs)]
    assert rates == pytest.approx(golden("promptkd")["rates"], rel=1e-5)


@pytest.mark.parametrize(("prompts", "depth"), [(4, 2), (2, 1), (0, 1)])
def test_a_student_with_other_prompts_is_told_the_settings_of_the_file(
    tmp_path: Path, prompts: int, depth: int
) -> None:
    path = dassl_file(tmp_path / "model-best.pth.tar", student_state())
    section = StudentSettings(
        name=f"tower:{loaded(tmp_path)[1].name}", prompts=prompts, prompt_depth=depth, image_size=32
    )
    with pytest.raises(ConfigError, match=r"Set student\.prompts=2 and student\.prompt_depth=2\.$"):
        new_student(section, 3, path, seed=0)


def test_published_size_of_the_projector() -> None:
    head = ClassVectorsHead(512, torch.zeros(7, 768), 100.0, layers=2)
    assert sum(value.numel() for value in head.parameters()) == 986_112


def test_a_projector_is_linear_batchnorm_relu_linear() -> None:
    head = ClassVectorsHead(5, VECTORS, 10.0, seed=1, layers=2).eval()
    feat = torch.randn(2, 5, generator=generator_for("features"))
    first, norm, _, second = head.projector  # type: ignore[misc]
    hidden = torch.relu((first(feat) - norm.running_mean) / (norm.running_var + norm.eps).sqrt())
    torch.testing.assert_close(head(feat), 10 * normalize(second(hidden), dim=-1) @ VECTORS.T)


@pytest.mark.parametrize("kind", ["clip", "embedded"])
def test_without_prompts_the_features_are_the_teachers_own(tmp_path: Path, kind: str) -> None:
    teacher, size = (loaded(tmp_path)[1], 32) if kind == "clip" else (small(), 64)
    student, x_N3HW = student_of(teacher, size, prompts=0), pictures(height=size, width=size)
    with torch.no_grad():
        found = normalize(student.features(x_N3HW), dim=-1)
        assert torch.allclose(found, teacher.encode_image(x_N3HW), atol=1e-5)
    student.freeze_backbone(False)
    assert {name.split(".")[0] for name, value in student.named_parameters() if value.requires_grad} == {"head"}


@pytest.mark.parametrize("kind", ["clip", "embedded"])
def test_prompts_and_projector_learn_and_the_tower_keeps_its_bits(tmp_path: Path, kind: str) -> None:
    teacher, size = (loaded(tmp_path)[1], 32) if kind == "clip" else (small(), 64)
    student = student_of(teacher, size, prompts=2 if kind == "clip" else 0)
    before = {name: value.clone() for name, value in student.state_dict().items()}
    target = student_target(tmp_path)
    distil(student, SoftLabels(target, VECTORS), training_data(size), settings=SETTINGS, folder=tmp_path / "work")
    changed = {name for name, value in student.state_dict().items() if not torch.equal(value, before[name])}
    assert any("prompts" in name for name in changed) == (kind == "clip")
    assert any("projector" in name for name in changed)
    assert all(name.startswith(("head.projector", "backbone.prompts")) for name in changed)


def student_target(tmp_path: Path) -> Any:
    """A teacher in the space of VECTORS."""
    (tmp_path / "teacher").mkdir(exist_ok=True)
    return loaded(tmp_path / "teacher")[1]


def test_a_killed_lesson_goes_on_and_ends_with_the_same_bits(tmp_path: Path) -> None:
    teacher, labels = loaded(tmp_path)[1], SoftLabels(student_target(tmp_path), VECTORS)
    whole = student_of(teacher, 32)
    distil(whole, labels, training_data(32), settings=SETTINGS, folder=tmp_path / "whole")
    killed, steps = student_of(teacher, 32), count()

    def die_after_the_first_checkpoint(*_: Any) -> None:
        if next(steps) == 2:
            raise KeyboardInterrupt

    killed.head.register_forward_pre_hook(die_after_the_first_checkpoint)
    with pytest.raises(KeyboardInterrupt):
        distil(killed, labels, training_data(32), settings=SETTINGS, folder=tmp_path / "killed")
    again = student_of(teacher, 32)
    result = distil(again, labels, training_data(32), settings=SETTINGS, folder=tmp_path / "killed")
    assert result.resumed_step == 2
    assert all(torch.equal(value, whole.state_dict()[name]) for name, value in again.state_dict().items())


def test_the_whole_tower_is_not_in_the_checkpoint(tmp_path: Path) -> None:
    from safetensors import safe_open

    student, target = student_of(loaded(tmp_path)[1], 32), student_target(tmp_path)
    distil(student, SoftLabels(target, VECTORS), training_data(32), settings=SETTINGS, folder=tmp_path)
    with safe_open(tmp_path / "checkpoint.safetensors", framework="pt") as stored:
        assert not [name for name in stored.keys() if "visual" in name]  # noqa: SIM118 - not a dict


def test_sizes_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="takes 32 pixels a side"):
        student_of(loaded(tmp_path)[1], 64)


@pytest.mark.parametrize("name", ["lite0", "tower:embedded-s"])
def test_networks_without_a_place_for_tokens_take_no_prompts(name: str) -> None:
    section = load_settings(overrides=[f"student.name={name}", "student.prompts=3", "student.image_size=64"]).student
    with pytest.raises(ConfigError, match=f"'{name}' takes no prompts"):
        new_student(section, 3, "pretrained", seed=0)


def test_a_tower_has_its_weights_already() -> None:
    section = load_settings(overrides=["student.name=tower:embedded-s"]).student
    with pytest.raises(ConfigError, match="is a trained tower"):
        new_student(section, 3, "scratch", seed=0)
