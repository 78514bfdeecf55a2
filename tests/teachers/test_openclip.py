"""The open_clip adapter, on tiny random models of the same architectures, measured against open_clip itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from open_clip.pretrained import _PRETRAINED
from open_clip.transformer import QuickGELU
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.functional import interpolate, normalize

from clipstill.core.errors import ConfigError, DataError, ResourceError, UnknownNameError
from clipstill.core.protocols import BatchNormTeacher, Teacher
from clipstill.core.seeds import generator_for
from clipstill.teachers import class_vectors, load_teacher, teachers
from openclip_fixtures import CONFIGS, CPU, TEXT, VIT, architectures, loaded, pictures, reference, saved  # noqa: F401


def normalised(
    x_N3HW: Tensor, mean: Any = open_clip.OPENAI_DATASET_MEAN, std: Any = open_clip.OPENAI_DATASET_STD
) -> Tensor:
    return (x_N3HW - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)


@pytest.mark.parametrize(
    ("architecture", "suffix"),
    [
        *((name, ".safetensors") for name in ("tiny-vit", "tiny-vit-quickgelu", "tiny-custom", "tiny-rn")),
        ("tiny-vit", ".pt"),
    ],
)
def test_a_local_checkpoint_computes_what_open_clip_computes(tmp_path: Path, architecture: str, suffix: str) -> None:
    model = reference(architecture)
    path = saved(model, tmp_path / f"weights{suffix}")
    teacher = load_teacher(f"openclip:{architecture}/{path}", CPU)
    texts = ["a dog", "a photo of an elephant"]
    with torch.no_grad():
        images = model.encode_image(normalised(pictures()), normalize=True)
        words = model.encode_text(open_clip.get_tokenizer(architecture)(texts), normalize=True)
        assert torch.allclose(teacher.encode_image(pictures()), images, atol=1e-6)
    assert torch.allclose(teacher.encode_text(texts), words, atol=1e-6)


def test_the_teacher_keeps_its_protocol_and_its_facts(tmp_path: Path) -> None:
    _, teacher = loaded(tmp_path)
    assert isinstance(teacher, Teacher)
    assert (teacher.dim, teacher.image_size, teacher.templates) == (24, 32, "plain")
    assert teacher.image_parameters == sum(tensor.numel() for tensor in reference("tiny-vit").visual.parameters())
    assert teacher.preprocess.mean == pytest.approx(open_clip.OPENAI_DATASET_MEAN)
    assert len(teacher.weights_sha256) == 64
    assert teacher.provenance[0].licence == "unknown"


def test_the_logit_scale_is_the_exponential_of_the_stored_logarithm(tmp_path: Path) -> None:
    _, teacher = loaded(tmp_path)
    assert teacher.logit_scale == pytest.approx(54.598, abs=1e-3)


def test_loading_does_not_say_that_the_weights_are_random(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = saved(reference("tiny-vit"), tmp_path / "w.safetensors")
    caplog.clear()
    load_teacher(f"openclip:tiny-vit/{path}", CPU)
    assert caplog.text == ""


def test_everything_is_frozen_and_in_evaluation_mode(tmp_path: Path) -> None:
    _, teacher = loaded(tmp_path, "tiny-rn")
    assert not teacher._model.training
    assert not any(tensor.requires_grad for tensor in teacher._model.parameters())


def test_gradients_reach_the_pixels_and_agree_with_finite_differences(tmp_path: Path) -> None:
    _, teacher = loaded(tmp_path)
    x = pictures(2, 40, 48).requires_grad_()
    direction = torch.randn(x.shape, generator=generator_for("direction"))
    target = normalize(torch.randn(24, generator=generator_for("target")), dim=0)
    (teacher.encode_image(x) @ target).sum().backward()
    assert x.grad is not None
    with torch.no_grad():
        step = 1e-2
        ahead = (teacher.encode_image(x + step * direction) @ target).sum()
        behind = (teacher.encode_image(x - step * direction) @ target).sum()
    assert float((x.grad * direction).sum()) == pytest.approx(float(ahead - behind) / (2 * step), rel=0.02)


def test_images_of_any_size_are_resized_with_antialias_and_cut_in_the_middle(tmp_path: Path) -> None:
    model, teacher = loaded(tmp_path)
    x = pictures(2, 64, 128)
    with torch.no_grad():
        small = interpolate(x, (32, 64), mode="bicubic", antialias=True)[..., 16:48]
        expected = model.encode_image(normalised(small), normalize=True)
        assert torch.allclose(teacher.encode_image(x), expected, atol=1e-6)


def test_the_result_of_an_image_does_not_depend_on_its_batch(tmp_path: Path) -> None:
    for architecture in ("tiny-vit", "tiny-rn"):
        _, teacher = loaded(tmp_path, architecture)
        whole = teacher.encode_image(pictures())
        assert torch.allclose(whole[2:3], teacher.encode_image(pictures()[2:3]), atol=1e-6)


@pytest.mark.parametrize("architecture", ["tiny-vit", "tiny-rn", "tiny-custom"])
def test_half_precision_towers_give_unit_float32_features_near_the_full_ones(tmp_path: Path, architecture: str) -> None:
    _, full = loaded(tmp_path, architecture)
    _, half = loaded(tmp_path, architecture, "bf16")
    assert any(tensor.dtype == torch.bfloat16 for tensor in half._model.visual.parameters())
    x = pictures().requires_grad_()
    for one, other in (
        (half.encode_image(x), full.encode_image(x)),
        (half.encode_text(["a dog", "a cat"]), full.encode_text(["a dog", "a cat"])),
    ):
        assert one.dtype == torch.float32
        assert torch.allclose(one.norm(dim=-1), torch.ones(len(one)), atol=1e-5)
        assert float((one * other).sum(dim=-1).min().detach()) > 0.999
    half.encode_image(x).sum().backward()
    assert x.grad is not None
    assert x.grad.dtype == torch.float32


@pytest.mark.parametrize("architecture", ["tiny-vit", "tiny-custom"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_token_embeddings_give_the_vectors_of_their_texts(tmp_path: Path, architecture: str, precision: str) -> None:
    _, teacher = loaded(tmp_path, architecture, precision)
    texts = ["a dog", "a very large elephant"]
    assert torch.allclose(
        teacher.encode_tokens(*teacher.embed_tokens(texts)),
        teacher.encode_text(texts),
        atol=1e-6,
    )


def test_the_text_end_moves_with_inserted_tokens(tmp_path: Path) -> None:
    _, teacher = loaded(tmp_path)
    long, _ = teacher.embed_tokens(["a photo of dog"])
    short, position = teacher.embed_tokens(["a dog"])
    inserted = torch.cat([short[:, :2], long[:, 2:4], short[:, 2:-2]], dim=1)
    assert torch.allclose(
        teacher.encode_tokens(inserted, position + 2), teacher.encode_text(["a photo of dog"]), atol=1e-6
    )
    assert not torch.allclose(
        teacher.encode_tokens(inserted, position), teacher.encode_text(["a photo of dog"]), atol=1e-2
    )


def test_gradients_reach_the_soft_tokens_but_not_what_follows_the_end(tmp_path: Path) -> None:
    _, teacher = loaded(tmp_path)
    embeddings, position = teacher.embed_tokens(["a dog"])
    embeddings.requires_grad_()
    teacher.encode_tokens(embeddings, position)[0, 0].backward()
    end = int(position[0])
    assert (embeddings.grad[0, : end + 1].abs().sum(dim=-1) > 0).all()
    assert (embeddings.grad[0, end + 1 :] == 0).all()


def test_padding_may_be_cut(tmp_path: Path) -> None:
    _, teacher = loaded(tmp_path)
    embeddings, position = teacher.embed_tokens(["a dog"])
    assert torch.allclose(teacher.encode_tokens(embeddings[:, :6], position), teacher.encode_text(["a dog"]), atol=1e-6)


def test_class_vectors_are_the_normalised_means_of_their_texts(tmp_path: Path) -> None:
    _, teacher = loaded(tmp_path)
    texts = [["a dog", "the dog"], ["a cat"]]
    vectors = class_vectors(teacher, texts)
    assert torch.allclose(vectors[0], normalize(teacher.encode_text(texts[0]).sum(dim=0), dim=0), atol=1e-6)
    assert torch.allclose(vectors[1], teacher.encode_text(texts[1])[0], atol=1e-6)


def published(monkeypatch: pytest.MonkeyPatch, architecture: str, tag: str, **config: Any) -> None:
    base = {"mean": open_clip.OPENAI_DATASET_MEAN, "std": open_clip.OPENAI_DATASET_STD}
    monkeypatch.setitem(_PRETRAINED, architecture, {tag: {**base, **config}})


def activations(teacher: Any) -> int:
    return sum(isinstance(layer, QuickGELU) for layer in teacher._model.modules())


def test_openai_weights_get_quickgelu_whatever_the_architecture_is_called(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = reference("tiny-vit-quickgelu")
    path = saved(model, tmp_path / "w.safetensors")
    published(monkeypatch, "tiny-vit", "openai", file=str(path), quick_gelu=True)
    teacher: Any = load_teacher("openclip:tiny-vit/openai", CPU)
    assert activations(teacher) == 4
    with torch.no_grad():
        expected = model.encode_image(normalised(pictures()), normalize=True)
        assert torch.allclose(teacher.encode_image(pictures()), expected, atol=1e-6)
    assert teacher.provenance[0].licence == "MIT"
    # A local file keeps what every tag of its architecture has.
    assert activations(load_teacher(f"openclip:tiny-vit/{path}", CPU)) == 4
    _PRETRAINED["tiny-vit"]["plain"] = {}
    plain: Any = load_teacher(f"openclip:tiny-vit/{path}", CPU)
    assert activations(plain) == 0
    assert not torch.allclose(plain.encode_image(pictures()), expected, atol=1e-4)
    # The tag before the path tells more.
    named: Any = load_teacher(f"openclip:tiny-vit/openai/{path}", CPU)
    assert torch.equal(named.encode_image(pictures()), teacher.encode_image(pictures()))
    assert named.provenance[0].licence == "MIT"


@pytest.mark.parametrize("mark", ["file name", "archive key"])
def test_a_local_openai_file_in_a_plain_architecture_is_refused(tmp_path: Path, mark: str) -> None:
    state = {key: tensor.clone() for key, tensor in reference("tiny-vit").state_dict().items()}
    path = tmp_path / ("vit-openai.safetensors" if mark == "file name" else "vit.safetensors")
    if mark == "archive key":
        state["input_resolution"] = torch.tensor(32)
    save_file(state, path)
    with pytest.raises(ConfigError, match="Name the architecture tiny-vit-quickgelu"):
        load_teacher(f"openclip:tiny-vit/{path}", CPU)
    assert activations(load_teacher(f"openclip:tiny-vit-quickgelu/{path}", CPU)) == 4


def test_mean_and_std_are_those_of_the_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    half = (0.5, 0.5, 0.5)
    model = reference("tiny-vit")
    path = saved(model, tmp_path / "w.safetensors")
    published(monkeypatch, "tiny-vit", "webli", file=str(path), mean=half, std=half)
    with torch.no_grad():
        expected = model.encode_image(normalised(pictures(), half, half), normalize=True)
    for name in ("openclip:tiny-vit/webli", f"openclip:tiny-vit/{path}"):
        teacher = load_teacher(name, CPU)
        assert teacher.preprocess.mean == half
        assert torch.allclose(teacher.encode_image(pictures()), expected, atol=1e-6)


def test_weights_that_cannot_be_fetched_are_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    published(monkeypatch, "tiny-vit", "openai", hf_hub="nobody/nothing/", quick_gelu=True)

    def offline(*_: Any, **__: Any) -> str:
        raise OSError("no route to host\nand a long story")

    monkeypatch.setattr("clipstill.core.hub.check_reachable", offline)
    with pytest.raises(ResourceError, match=r"repository nobody/nothing \(no route to host\)") as caught:
        load_teacher("openclip:tiny-vit/openai", CPU)
    assert "\n" not in str(caught.value)


class Malicious:
    """Pickles to a call that leaves a file behind."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.trace,)


def test_a_pickle_that_runs_code_is_refused_and_runs_nothing(tmp_path: Path) -> None:
    trace = tmp_path / "it-ran"
    path = tmp_path / "weights.pt"
    torch.save({"state_dict": Malicious(trace)}, path)  # noqa: TID251
    with pytest.raises(DataError, match="code in weight files is never run") as caught:
        load_teacher(f"openclip:tiny-vit/{path}", CPU)
    assert "\n" not in str(caught.value)
    assert not trace.exists()


def test_damaged_and_foreign_checkpoints_are_refused(tmp_path: Path) -> None:
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(b"not tensors")
    with pytest.raises(DataError, match="not a plain file of tensors"):
        load_teacher(f"openclip:tiny-vit/{broken}", CPU)
    listed = tmp_path / "list.pt"
    torch.save([torch.zeros(1)], listed)  # noqa: TID251
    with pytest.raises(DataError, match="holds no state dict"):
        load_teacher(f"openclip:tiny-vit/{listed}", CPU)
    other = saved(reference("tiny-rn"), tmp_path / "other.safetensors")
    with pytest.raises(ConfigError, match="are not of tiny-vit") as caught:
        load_teacher(f"openclip:tiny-vit/{other}", CPU)
    assert "\n" not in str(caught.value)
    with pytest.raises(DataError, match="there is no checkpoint"):
        load_teacher("openclip:tiny-vit//nowhere/weights.pt", CPU)


def test_unknown_names_get_a_suggestion() -> None:
    with pytest.raises(UnknownNameError, match="Did you mean 'ViT-B-32'"):
        load_teacher("openclip:ViT-B32/openai", CPU)
    with pytest.raises(UnknownNameError, match="Did you mean 'openai'"):
        load_teacher("openclip:ViT-B-32/opneai", CPU)
    with pytest.raises(ConfigError, match="names no weights"):
        load_teacher("openclip:ViT-B-32", CPU)
    with pytest.raises(UnknownNameError, match="Did you mean 'openclip'"):
        load_teacher("openclp:ViT-B-32/openai", CPU)
    assert "openclip:..." in teachers.names()


def test_impossible_precisions_are_refused() -> None:
    with pytest.raises(ConfigError, match="must be one of fp32, bf16, fp16"):
        load_teacher("openclip:tiny-vit/x.pt", CPU, "int4")
    with pytest.raises(ConfigError, match="needs a GPU"):
        load_teacher("openclip:tiny-vit/x.pt", CPU, "fp16")


def test_only_a_resnet_teacher_offers_statistics(tmp_path: Path) -> None:
    _, resnet = loaded(tmp_path, "tiny-rn")
    assert isinstance(resnet, BatchNormTeacher)
    _, vit = loaded(tmp_path, "tiny-vit")
    assert not isinstance(vit, BatchNormTeacher)
    x = pictures().requires_grad_()
    features, gap = resnet.encode_image_with_statistics(x)
    assert torch.allclose(features, resnet.encode_image(x))
    assert gap.shape == ()
    gap.backward()
    assert x.grad is not None
    assert x.grad.abs().sum() > 0
