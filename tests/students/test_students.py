"""Students: weights, normalisation, freezing, heads."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file

from clipstill.core.errors import ArtifactError, ConfigError, ResourceError, UnknownNameError
from clipstill.core.packaged_weights import lite_state_dict
from clipstill.core.seeds import generator_for
from clipstill.students import load_student
from clipstill.students.class_vectors_head import ClassVectorsHead, projector_shape
from clipstill.students.student import FirstHead

SMALL = "timm:test_efficientnet"


def images(n: int, size: int = 48) -> torch.Tensor:
    return torch.rand(n, 3, size, size, generator=generator_for("test images", n, size))


def test_pretrained_lite0_is_timm_network_on_127_128_normalised_pixels() -> None:
    student = load_student("lite0", classes=3, image_size=64)
    reference = timm.create_model("tf_efficientnet_lite0")
    reference.load_state_dict(lite_state_dict("lite0"))
    reference.eval()
    x_N3HW = images(2, 64)
    with torch.no_grad():
        normalised = (x_N3HW * 255 - 127) / 128
        pooled = reference.forward_head(reference.forward_features(normalised), pre_logits=True)
        torch.testing.assert_close(student.features(x_N3HW), pooled, rtol=1e-4, atol=1e-4)
    assert student(x_N3HW).shape == (2, 3)
    assert student.provenance[0].licence == "Apache-2.0"


def test_scratch_weights_depend_on_the_seed_and_on_nothing_else() -> None:
    first = load_student(SMALL, classes=3, init="scratch", seed=1)
    torch.rand(7)  # moves the global generator
    again = load_student(SMALL, classes=3, init="scratch", seed=1)
    other = load_student(SMALL, classes=3, init="scratch", seed=2)
    for key, value in first.state_dict().items():
        assert torch.equal(value, again.state_dict()[key])
    assert not torch.equal(first.head.weight, other.head.weight)
    assert not torch.equal(next(first.backbone.parameters()), next(other.backbone.parameters()))


def test_building_a_student_leaves_the_global_generator_alone() -> None:
    before = torch.get_rng_state()
    load_student(SMALL, classes=3, init="scratch")
    assert torch.equal(before, torch.get_rng_state())


def test_saved_student_comes_back_with_its_head(tmp_path: Path) -> None:
    student = load_student(SMALL, classes=3, init="scratch", seed=5)
    path = tmp_path / "student.safetensors"
    save_file(student.state_dict(), path)
    back = load_student(SMALL, classes=3, init=path, seed=9)
    x_N3HW = images(2)
    assert torch.equal(student(x_N3HW), back(x_N3HW))
    more = load_student(SMALL, classes=4, init=path, seed=9)
    assert torch.equal(student.features(x_N3HW), more.features(x_N3HW))


def test_weights_of_another_architecture_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.safetensors"
    save_file({"backbone.conv.weight": torch.zeros(1)}, path)
    with pytest.raises(ArtifactError, match="does not fit"):
        load_student(SMALL, classes=3, init=path)


def test_frozen_backbone_keeps_weights_and_statistics_in_training_mode() -> None:
    student = load_student(SMALL, classes=3, init="scratch")
    student.freeze_backbone(True)
    student.train()
    before = {key: value.clone() for key, value in student.state_dict().items()}
    student(images(4)).square().mean().backward()
    assert student.head.weight.grad is not None
    assert all(parameter.grad is None for parameter in student.backbone.parameters())
    assert all(torch.equal(before[key], value) for key, value in student.state_dict().items())


def test_frozen_statistics_still_let_the_weights_train() -> None:
    student = load_student(SMALL, classes=3, init="scratch")
    student.freeze_statistics(True)
    student.train()
    before = {key: value.clone() for key, value in student.state_dict().items() if "running" in key}
    student(images(4)).square().mean().backward()
    assert all(parameter.grad is not None for parameter in student.backbone.parameters())
    assert all(torch.equal(before[key], student.state_dict()[key]) for key in before)
    student.freeze_statistics(False)
    student.train()
    student(images(4))
    assert not all(torch.equal(before[key], student.state_dict()[key]) for key in before)


def test_bad_requests_are_one_line_errors() -> None:
    with pytest.raises(UnknownNameError, match="Did you mean 'lite0'"):
        load_student("lite00", classes=3)
    with pytest.raises(UnknownNameError, match="resnet18"):
        load_student("timm:resnet188", classes=3, init="scratch")
    with pytest.raises(ConfigError, match="scratch"):
        load_student("resnet18", classes=3)
    with pytest.raises(ConfigError, match="at least 2 classes"):
        load_student("lite0", classes=1)
    with pytest.raises(ConfigError, match="neither"):
        load_student("lite0", classes=3, init="no/such/file.safetensors")


@pytest.mark.parametrize(
    ("features", "dims", "layers", "width", "learned"),
    [
        (8, 6, 1, 0, 8 * 6 + 6),
        (8, 6, 2, 5, 8 * 5 + 5 + 2 * 5 + 5 * 6 + 6),
        (8, 6, 3, 5, 8 * 5 + 5 + 2 * 5 + 5 * 5 + 5 + 2 * 5 + 5 * 6 + 6),
        (512, 768, 2, 0, 986_112),  # PromptKD's, from ViT-B/16 to ViT-L/14
    ],
)
def test_a_projector_has_as_many_layers_as_it_is_told(
    features: int, dims: int, layers: int, width: int, learned: int
) -> None:
    head = ClassVectorsHead(features, torch.eye(2, dims), 20.0, layers=layers, width=width)
    assert sum(value.numel() for value in head.projector.parameters()) == learned
    assert projector_shape(head.state_dict()) == (layers, (width or dims) if layers > 1 else 0)
    other = head.eval().with_vectors(torch.eye(3, dims))
    features_NF = torch.randn(4, features, generator=generator_for("features"))
    torch.testing.assert_close(other(features_NF)[:, :2], head(features_NF))


@pytest.mark.parametrize(("layers", "width"), [(1, 0), (2, 0), (2, 5)])
def test_a_head_of_class_vectors_answers_by_cosines_and_takes_another_class_without_training(
    tmp_path: Path, layers: int, width: int
) -> None:
    vectors = torch.nn.functional.normalize(torch.randn(4, 6, generator=generator_for("vectors")), dim=-1)
    student = load_student(SMALL, classes=3, init="scratch")
    with pytest.raises(ConfigError, match="linear head"):
        student.embed(torch.rand(1, 3, 32, 32))
    student.use_class_vectors(vectors[:3], 20.0, seed=3, layers=layers, width=width)
    student.eval()
    images = torch.rand(2, 3, 32, 32, generator=generator_for("images"))
    logits = student(images)
    torch.testing.assert_close(logits, 20 * student.embed(images) @ vectors[:3].T)
    torch.testing.assert_close(torch.linalg.vector_norm(student.embed(images), dim=-1), torch.ones(2))
    assert not any("class_vectors" in name for name, _ in student.named_parameters())

    path = tmp_path / "student.safetensors"
    save_file(student.state_dict(), path)
    back = load_student(SMALL, classes=3, init=path, seed=9).eval()
    assert torch.equal(back(images), logits)
    back.use_class_vectors(vectors, 1.0)
    torch.testing.assert_close(back(images)[:, :3], logits)
    torch.testing.assert_close(back(images)[:, 3], 20 * student.embed(images) @ vectors[3])
    with pytest.raises(ConfigError, match="same teacher"):
        back.use_class_vectors(vectors[:, :5], 1.0)
    assert isinstance(load_student(SMALL, classes=2, init=path).head, torch.nn.Linear)


@pytest.mark.parametrize("size", [64, 96, 224])
@pytest.mark.parametrize("name", ["resnet18", "mobilenetv3-small", "mobilenetv4-small", "lite0", "vit-tiny"])
def test_students_that_people_deploy_answer_at_every_size(name: str, size: int) -> None:
    student = load_student(name, classes=3, init="scratch", image_size=size)
    assert student.preprocess.size == size
    with torch.no_grad():
        assert student(torch.rand(2, 3, size, size)).shape == (2, 3)


# What each takes follows from its construction: attention windows, patches of 14 pixels, unpadded convolutions.
@pytest.mark.slow
@pytest.mark.parametrize(
    ("architecture", "size", "nearest"),
    [
        ("vit_tiny_patch16_224", 72, 64),
        ("vit_small_patch14_dinov2", 128, 126),
        ("efficientformer_l1", 128, 224),
        ("halonet26t", 128, 256),
        ("inception_v4", 64, 96),
    ],
)
def test_a_size_that_a_network_does_not_take_is_refused_with_one_that_works(
    architecture: str, size: int, nearest: int
) -> None:
    name = f"timm:{architecture}"
    with pytest.raises(ConfigError, match=f"takes is {nearest}: set student.image_size to {nearest}") as caught:
        load_student(name, classes=3, init="scratch", image_size=size)
    assert "\n" not in str(caught.value)
    student = load_student(name, classes=3, init="scratch", image_size=nearest)
    with torch.no_grad():
        assert student(torch.rand(2, 3, nearest, nearest)).shape == (2, 3)


def test_a_hub_out_of_reach_is_one_line_after_one_question_and_its_file_is_taken_as_it_is(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked: list[str] = []

    def unreachable(repository: str, **options: object) -> str:
        asked.append(repository)
        raise OSError("no network")

    monkeypatch.setattr("huggingface_hub.snapshot_download", unreachable)
    monkeypatch.setattr("clipstill.core.hub.check_reachable", lambda: None)
    with pytest.raises(ResourceError, match=r"no network.*student.init to 'scratch'"):
        load_student("timm:test_resnet", 2)
    assert len(set(asked)) == 1
    stored = timm.create_model("test_resnet", num_classes=1000)
    save_file(stored.state_dict(), tmp_path / "model.safetensors")
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *_, **__: str(tmp_path))
    student = load_student("timm:test_resnet", 2)
    assert torch.equal(student.backbone.state_dict()["conv1.0.weight"], stored.state_dict()["conv1.0.weight"])
    # Its head may begin with what ImageNet's classifier says.
    assert student.imagenet is not None
    assert torch.equal(student.imagenet[0], stored.state_dict()["fc.weight"])
    assert torch.equal(student.imagenet[1], stored.state_dict()["fc.bias"])


def test_a_classifier_of_other_classes_than_imagenets_is_not_used(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    stored = timm.create_model("test_resnet", num_classes=1000).state_dict()
    stored |= {"fc.weight": stored["fc.weight"][:365].clone(), "fc.bias": stored["fc.bias"][:365].clone()}
    save_file(stored, tmp_path / "model.safetensors")
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *_, **__: str(tmp_path))
    assert load_student("timm:test_resnet", 2).imagenet is None
    assert load_student("timm:test_resnet", 2, "scratch").imagenet is None


@pytest.mark.parametrize("name", ["lite0", "timm:test_resnet", "timm:test_vit", "timm:test_convnext"])
def test_the_answers_of_imagenets_classifier_count_beside_the_features_and_are_stored(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    architecture = name.removeprefix("timm:")
    if architecture != name:
        save_file(timm.create_model(architecture).state_dict(), tmp_path / "model.safetensors")
        monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *_, **__: str(tmp_path))
    student = load_student(name, 3, image_size=160)
    assert student.imagenet is not None
    weight_KF, bias_K = student.imagenet
    features = weight_KF.shape[1]
    first = FirstHead(torch.randn(3, features), torch.randn(3), torch.randn(3, 1000))
    x_N3HW = torch.rand(2, 3, 160, 160)
    with torch.no_grad():
        feat_NF = student.features(x_N3HW)
        assert first.answers_CK is not None
        answers_NK = (feat_NF @ weight_KF.T + bias_K).softmax(1)
        expected_NC = feat_NF @ first.weight_CF.T + answers_NK @ first.answers_CK.T + first.bias_C
        student.begin_with(first)
        logits_NC = student(x_N3HW)
        torch.testing.assert_close(logits_NC, expected_NC)
        save_file(student.state_dict(), tmp_path / "student.safetensors")
        again = load_student(name, 3, tmp_path / "student.safetensors", 160)
        assert torch.equal(again(x_N3HW), logits_NC)
