"""Where models of open_clip come from: folders, repositories, layouts of weights, tokenizers, facts about tags."""

from __future__ import annotations

import json
import time
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from huggingface_hub import constants
from open_clip.factory import load_checkpoint
from open_clip.pretrained import _PRETRAINED
from PIL import Image
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import Tensor
from torch.nn import functional
from torch.nn.functional import normalize
from transformers import CLIPConfig, CLIPModel, PreTrainedTokenizerFast, XLMRobertaConfig

from clipstill.assembly.students import new_student
from clipstill.assembly.zero_shot import zero_shot_student
from clipstill.core.errors import ConfigError, DataError, ResourceError, UnknownNameError
from clipstill.core.images import fit
from clipstill.core.protocols import RESIZE_MODES, Preprocess, ResizeMode, Size
from clipstill.core.seeds import generator_for
from clipstill.students.settings import StudentSettings
from clipstill.teachers import load_teacher, resolve_teachers
from clipstill.teachers.openclip_source import find_source
from clipstill.teachers.prompted import PromptedOpenClip, prompted
from clipstill.text.soft_tokens import Sentence, SoftSentences
from openclip_fixtures import CONFIGS, CPU, TEXT, VIT, architectures, pictures, reference, saved  # noqa: F401

NAMES = ["dog", "horse", "elephant"]
WORDS = ["a", "photo", "of", *NAMES, ".", "x", "q"]
SIGLIP_TEXT = {
    **TEXT,
    "vocab_size": 32,
    "hf_tokenizer_name": "nobody/siglip",
    "tokenizer_kwargs": {"clean": "canonicalize"},
    "no_causal_mask": True,
    "proj_bias": True,
    "pool_type": "last",
}
CLIPA_TEXT = {**SIGLIP_TEXT, "tokenizer_kwargs": {"strip_sep_token": True}}
EOS_TEXT = {**TEXT, "vocab_size": 32, "hf_tokenizer_name": "nobody/xlm", "pool_type": "eos", "eos_id": 2}
# Special tokens in the order of their ids; start, end and padding; the text tower that goes with them.
TOKENIZERS: dict[str, tuple[list[str], str, str, str, dict[str, Any]]] = {
    "siglip": (["<pad>", "</s>", "<unk>"], "", "</s>", "</s>", SIGLIP_TEXT),
    "siglip2": (["<pad>", "<eos>", "<unk>"], "", "<eos>", "<pad>", SIGLIP_TEXT),
    "clipa": (["[PAD]", "[UNK]", "[CLS]", "[SEP]"], "[CLS]", "[SEP]", "[PAD]", CLIPA_TEXT),
    "metaclip2": (["<s>", "<pad>", "</s>", "<unk>"], "<s>", "</s>", "<pad>", EOS_TEXT),
}


def write_tokenizer(folder: Path, kind: str) -> None:
    special, start, end, pad, _ = TOKENIZERS[kind]
    vocabulary = {word: place for place, word in enumerate([*special, *WORDS])}
    unknown = next(word for word in special if "unk" in word.lower())
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=unknown))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    marks = [(word, vocabulary[word]) for word in (start, end) if word]
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{start} $A {end}".strip(), special_tokens=marks)
    whole = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=pad, eos_token=end, unk_token=unknown, sep_token=end, padding_side="right"
    )
    whole.save_pretrained(folder)


def randomise(model: Any) -> None:
    draw = generator_for("weights")
    with torch.no_grad():
        for name, tensor in model.named_parameters():
            scale = 0.1 if tensor.dim() < 2 else tensor[0].numel() ** -0.5
            tensor.copy_(torch.randn(tensor.shape, generator=draw) * scale + float("norm" in name or "ln_" in name))


def write_folder(folder: Path, text: dict[str, Any], preprocess: dict[str, Any] | None = None, **config: Any) -> str:
    """A folder as open_clip keeps a model, with random weights; the name of its teacher."""
    folder.mkdir(exist_ok=True)
    whole = {"embed_dim": 24, "custom_text": True, "vision_cfg": VIT, "text_cfg": text, **config}
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": whole, "preprocess_cfg": preprocess or {}}))
    model = open_clip.create_model(f"local-dir:{folder}", load_weights=False, pretrained_text=False)
    randomise(model)
    with torch.no_grad():
        model.logit_scale.fill_(4.6052)
    save_file({name: value.clone() for name, value in model.state_dict().items()}, folder / "model.safetensors")
    return f"openclip:local-dir:{folder}"


def theirs(folder: Path) -> Any:
    return open_clip.create_model(f"local-dir:{folder}").eval().requires_grad_(False)


# --- Text towers of all kinds of tokenizers


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_soft_tokens_that_are_words_give_the_text_with_those_words(tmp_path: Path, kind: str) -> None:
    write_tokenizer(tmp_path, kind)
    teacher = load_teacher(write_folder(tmp_path, TOKENIZERS[kind][4]), CPU)
    learner = prompted(teacher, count=4, visual_depth=0, text_depth=1, words="a photo of a")
    assert isinstance(learner, PromptedOpenClip)
    vectors_CD = learner.class_vectors(NAMES).detach()
    sentences = [f"a photo of a {name}." for name in NAMES]
    with torch.no_grad():
        texts = open_clip.get_tokenizer(f"local-dir:{tmp_path}")(sentences)
        expected_CD = theirs(tmp_path).encode_text(texts, normalize=True)
    assert torch.allclose(vectors_CD, expected_CD, atol=1e-5)
    assert float((vectors_CD[0] - vectors_CD[1]).abs().max()) > 1e-3


@pytest.mark.parametrize(("kind", "reads_all"), [("siglip", False), ("clipa", False), ("metaclip2", True)])
def test_towers_of_many_languages_are_known_by_their_tokenizer(tmp_path: Path, kind: str, reads_all: bool) -> None:
    write_tokenizer(tmp_path, kind)
    teacher = load_teacher(write_folder(tmp_path, TOKENIZERS[kind][4]), CPU)
    assert teacher.multilingual is reads_all


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_sentences_with_soft_tokens_that_are_words_are_those_sentences(tmp_path: Path, kind: str) -> None:
    write_tokenizer(tmp_path, kind)
    teacher: Any = load_teacher(write_folder(tmp_path, TOKENIZERS[kind][4]), CPU)
    soft = SoftSentences(teacher, [Sentence("{tokens} {class}.", name) for name in NAMES], 2)
    words_MLE = teacher.embed_words("a photo").expand(3, -1, -1)
    expected_MD = teacher.encode_text([f"a photo {name}." for name in NAMES])
    assert torch.allclose(soft.encode(words_MLE), expected_MD, atol=1e-5)


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_prompts_of_further_layers_leave_the_class_names_alone(tmp_path: Path, kind: str) -> None:
    write_tokenizer(tmp_path, kind)
    teacher = load_teacher(write_folder(tmp_path, TOKENIZERS[kind][4]), CPU)
    vectors_CD = prompted(teacher, count=4, visual_depth=0, text_depth=2).class_vectors(NAMES).detach()
    gaps = torch.cdist(vectors_CD, vectors_CD) + torch.eye(3)
    assert float(gaps.min()) > 1e-3


def test_prompts_that_leave_no_room_are_refused(tmp_path: Path) -> None:
    write_tokenizer(tmp_path, "siglip")
    teacher = load_teacher(write_folder(tmp_path, SIGLIP_TEXT), CPU)
    with pytest.raises(ConfigError, match="15 soft tokens leave no room for a text"):
        prompted(teacher, count=15, visual_depth=0, text_depth=1).class_vectors(NAMES)


def test_a_text_tower_of_transformers_takes_its_configuration_from_beside_the_weights(tmp_path: Path) -> None:
    write_tokenizer(tmp_path, "metaclip2")
    small = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}
    XLMRobertaConfig(vocab_size=32, pad_token_id=1, type_vocab_size=1, **small).save_pretrained(tmp_path)
    text = {"hf_model_name": str(tmp_path), "hf_tokenizer_name": "nobody/xlm", "hf_pooler_type": "mean_pooler"}
    name = write_folder(tmp_path, text)
    expected_MD = theirs(tmp_path).encode_text(open_clip.get_tokenizer(f"local-dir:{tmp_path}")(NAMES), normalize=True)
    # As laion published it: with position ids, and with the hub's name of the tower.
    config = json.loads((tmp_path / "open_clip_config.json").read_text())
    config["model_cfg"]["text_cfg"]["hf_model_name"] = "nobody/xlm-roberta-base"
    (tmp_path / "open_clip_config.json").write_text(json.dumps(config))
    state = load_file(tmp_path / "model.safetensors")
    save_file(
        {**state, "text.transformer.embeddings.position_ids": torch.arange(514)[None]}, tmp_path / "model.safetensors"
    )
    teacher = load_teacher(name, CPU)
    assert torch.allclose(teacher.encode_text(NAMES), expected_MD, atol=1e-6)
    half = load_teacher(name, CPU, "bf16")
    assert float((half.encode_text(NAMES) * expected_MD).sum(-1).min()) > 0.999
    with pytest.raises(ConfigError, match="does not take soft tokens"):
        teacher.embed_tokens(NAMES)


# --- Without a network


def test_a_missing_tokenizer_is_one_line_within_seconds(tmp_path: Path) -> None:
    name, start = write_folder(tmp_path, SIGLIP_TEXT), time.monotonic()
    with pytest.raises(ResourceError, match="of the repository nobody/siglip") as caught:
        load_teacher(name, CPU)
    assert "\n" not in str(caught.value)
    assert time.monotonic() - start < 25


def test_a_repository_is_read_from_the_hubs_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = tmp_path / "models--nobody--clip"
    snapshot = here / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (here / "refs").mkdir()
    (here / "refs" / "main").write_text("abc")
    write_folder(snapshot, TEXT, {"resize_mode": "squash", "mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25]})
    (snapshot / "model.safetensors").rename(snapshot / "open_clip_model.safetensors")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    teacher = load_teacher("openclip:hf-hub:nobody/clip", CPU)
    assert teacher.preprocess == Preprocess(32, (0.5,) * 3, (0.25,) * 3, resize_mode="squash")
    assert teacher.provenance[0].source == "nobody/clip"
    assert torch.allclose(
        teacher.encode_text(NAMES),
        theirs(snapshot).encode_text(open_clip.SimpleTokenizer(context_length=16)(NAMES), normalize=True),
        atol=1e-6,
    )


@pytest.mark.parametrize("content", [None, "{}", '{"model_cfg": {"embed_dim": 3}}'])
def test_folders_without_a_configuration_are_one_line(tmp_path: Path, content: str | None) -> None:
    save_file({"x": torch.zeros(1)}, tmp_path / "model.safetensors")
    if content is not None:
        (tmp_path / "open_clip_config.json").write_text(content)
    with pytest.raises(DataError, match=r"open_clip_config\.json"):
        load_teacher(f"openclip:local-dir:{tmp_path}", CPU)
    broken = tmp_path / "broken"
    name = write_folder(broken, TEXT)
    config = (broken / "open_clip_config.json").read_text()
    (broken / "open_clip_config.json").write_text(config.replace("embed_dim", 'embed_dim": 24, "depth'))
    with pytest.raises(DataError, match="open_clip cannot build the model that .*broken describes"):
        load_teacher(name, CPU)
    with pytest.raises(DataError, match="there are no weights in"):
        load_teacher(f"openclip:local-dir:{tmp_path}/nowhere", CPU)


# --- Layouts of weights


def state_of(architecture: str) -> dict[str, Tensor]:
    return {key: value.clone() for key, value in reference(architecture).state_dict().items()}


def assert_same(path: Path, architecture: str) -> None:
    teacher, tiny = load_teacher(f"openclip:{architecture}/{path}", CPU), reference(architecture)
    ids = open_clip.get_tokenizer(architecture)(NAMES)
    with torch.no_grad():
        assert torch.allclose(teacher.encode_text(NAMES), tiny.encode_text(ids, normalize=True), atol=1e-6)


def test_a_torchscript_archive_is_read_without_its_program(tmp_path: Path) -> None:
    tiny = reference("tiny-vit-quickgelu")
    example = {"encode_image": torch.rand(1, 3, 32, 32), "encode_text": torch.randint(0, 9, (1, 16))}
    traced = torch.jit.trace_module(tiny, example, check_trace=False)
    traced.save(str(tmp_path / "archive.pt"))
    assert_same(tmp_path / "archive.pt", "tiny-vit-quickgelu")


def test_an_archive_that_wants_to_run_code_is_refused_and_runs_nothing(tmp_path: Path) -> None:
    trace, path = tmp_path / "it-ran", tmp_path / "archive.pt"

    class Malicious:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (trace,)

    torch.save(Malicious(), path)  # noqa: TID251
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("archive/constants.pkl", b"")
    with pytest.raises(DataError, match="code in weight files is never run"):
        load_teacher(f"openclip:tiny-vit/{path}", CPU)
    assert not trace.exists()


def test_tinyclips_towers_are_found_in_their_modules(tmp_path: Path) -> None:
    parts = {"visual": "_image_encoder.module.", "logit_scale": "_logit_scale.module."}
    state = {
        next((new for old, new in parts.items() if key.startswith(old)), "_text_encoder.module.") + key: value
        for key, value in state_of("tiny-vit").items()
    }
    torch.save({"state_dict": {f"module.{key}": value for key, value in state.items()}}, tmp_path / "tiny.pt")  # noqa: TID251
    assert_same(tmp_path / "tiny.pt", "tiny-vit")


@pytest.mark.parametrize("extra", [{"logit_bias": torch.zeros(1)}, {"attn_mask": torch.zeros(16, 16)}])
def test_keys_that_the_model_has_no_place_for_are_dropped(tmp_path: Path, extra: dict[str, Tensor]) -> None:
    save_file({**state_of("tiny-vit"), **extra}, tmp_path / "more.safetensors")
    assert_same(tmp_path / "more.safetensors", "tiny-vit")


def test_a_missing_bias_is_zero_as_open_clip_loads_it(tmp_path: Path) -> None:
    name = write_folder(tmp_path, TEXT, init_logit_bias=-10)
    state = load_file(tmp_path / "model.safetensors")
    del state["logit_bias"]
    save_file(state, tmp_path / "model.safetensors")
    model = open_clip.create_model(f"local-dir:{tmp_path}", load_weights=False)
    load_checkpoint(model, str(tmp_path / "model.safetensors"))
    teacher: Any = load_teacher(name, CPU)
    assert torch.equal(teacher._model.logit_bias, model.logit_bias)


@pytest.fixture
def of_transformers(tmp_path: Path) -> CLIPModel:
    """A CLIP of transformers with the sizes of ``tiny-vit``, saved in the folder."""
    text = {"hidden_size": 16, "intermediate_size": 64, "num_attention_heads": 2, "num_hidden_layers": 2}
    vision = {**text, "hidden_size": 32, "intermediate_size": 128, "image_size": 32, "patch_size": 8}
    text |= {"vocab_size": 49408, "max_position_embeddings": 16, "eos_token_id": 49407}
    model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=24)).eval()
    randomise(model)
    model.save_pretrained(tmp_path)
    return model


def test_a_clip_of_transformers_gives_the_same_vectors(tmp_path: Path, of_transformers: CLIPModel) -> None:
    path = tmp_path / "model.safetensors"
    with pytest.raises(ConfigError, match="Name the architecture tiny-vit-quickgelu"):
        load_teacher(f"openclip:tiny-vit/{path}", CPU)
    teacher: Any = load_teacher(f"openclip:tiny-vit-quickgelu/{path}", CPU)
    ids = open_clip.SimpleTokenizer(context_length=16)(NAMES)
    with torch.no_grad():
        texts = of_transformers.text_projection(of_transformers.text_model(ids).pooler_output)
        images = of_transformers.vision_model(teacher.prepared(pictures())).pooler_output
        images = of_transformers.visual_projection(images)
    assert torch.allclose(teacher.encode_text(NAMES), normalize(texts, dim=-1), atol=1e-5)
    assert torch.allclose(teacher.encode_image(pictures()), normalize(images, dim=-1), atol=1e-5)


def test_other_models_of_transformers_are_named(tmp_path: Path, of_transformers: CLIPModel) -> None:
    state = {key: value for key, value in of_transformers.state_dict().items() if "pre_layrnorm" not in key}
    save_file({key: value.clone() for key, value in state.items()}, tmp_path / "siglip.safetensors")
    with pytest.raises(ConfigError, match="a model of transformers that is no CLIPModel"):
        load_teacher(f"openclip:tiny-vit-quickgelu/{tmp_path / 'siglip.safetensors'}", CPU)


# --- Preprocessing


@pytest.mark.parametrize("mode", RESIZE_MODES)
@pytest.mark.parametrize("size", [32, [32, 48]])
def test_photos_are_fitted_as_open_clip_fits_them(tmp_path: Path, mode: ResizeMode, size: Size) -> None:
    told = {"resize_mode": mode, "interpolation": "bilinear", "fill_color": 90, "mean": [0.4] * 3, "std": [0.2] * 3}
    name = write_folder(tmp_path, TEXT, told, vision_cfg={**VIT, "image_size": size})
    model, _, preprocess_val = open_clip.create_model_and_transforms(f"local-dir:{tmp_path}")
    teacher: Any = load_teacher(name, CPU)
    for width, height in ((64, 36), (36, 64), (50, 50)):
        # Without extremes, which Pillow clips.
        noise = np.random.default_rng(0).integers(90, 160, (height, width, 3), dtype=np.uint8)
        photo = Image.fromarray(noise)
        x_13HW = torch.from_numpy(fit(photo, teacher.preprocess)).permute(2, 0, 1)[None].float() / 255
        assert torch.allclose(teacher.prepared(x_13HW)[0], preprocess_val(photo), atol=1e-6)
        with torch.no_grad():
            expected = model.eval().encode_image(preprocess_val(photo)[None], normalize=True)
        assert torch.allclose(teacher.encode_image(x_13HW), expected, atol=1e-6)
        # As tensors: the same but for Pillow's rounding to whole levels, after each of two passes.
        whole_13HW = torch.from_numpy(noise).permute(2, 0, 1)[None].float() / 255
        assert float((teacher.prepared(whole_13HW)[0] - preprocess_val(photo)).abs().max()) < 1.5 / 255 / 0.2


def test_a_zero_shot_student_sees_photos_as_its_teacher(tmp_path: Path) -> None:
    name = write_folder(tmp_path, TEXT, {"resize_mode": "squash"}, vision_cfg={**VIT, "image_size": [32, 48]})
    teacher = load_teacher(name, CPU)
    student = zero_shot_student(teacher, torch.eye(3, 24))
    assert student.preprocess == teacher.preprocess
    assert student.preprocess.size == (32, 48)
    assert student(torch.rand(2, 3, 32, 48)).shape == (2, 3)
    with pytest.raises(ConfigError, match="32 x 48 pixels, and only square ones can be trained"):
        _ = student.preprocess.side


def test_cocas_tower_is_a_student_in_either_precision(tmp_path: Path) -> None:
    vision = {**VIT, "attentional_pool": True, "attn_pooler_heads": 2, "output_tokens": True}
    text = {**TEXT, "embed_cls": True, "output_tokens": True}
    decoder = {"context_length": 16, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1}
    name = write_folder(tmp_path, text, vision_cfg=vision, multimodal_cfg=decoder)
    full, half = load_teacher(name, CPU), load_teacher(name, CPU, "bf16")
    x_N3HW = pictures()
    student = zero_shot_student(full, torch.eye(3, 24))
    with torch.no_grad():
        expected_NC = full.logit_scale * full.encode_image(x_N3HW)[:, :3]
        assert torch.allclose(student(x_N3HW), expected_NC, atol=1e-4)
    section = StudentSettings(name=f"tower:{name}", image_size=full.image_size, tower="trained")
    trained = new_student(section, 3, "pretrained", seed=0)
    trained.freeze_backbone(False)
    functional.cross_entropy(trained(x_N3HW), torch.zeros(len(x_N3HW), dtype=torch.long)).backward()
    assert all(value.grad is not None and value.grad.isfinite().all() for value in trained.head.parameters())
    assert sum(value.grad is not None for value in trained.backbone.parameters()) > 5
    for one, other in ((half.encode_image(x_N3HW), full.encode_image(x_N3HW)),
                       (half.encode_text(NAMES), full.encode_text(NAMES))):  # fmt: skip
        assert float((one * other).sum(-1).min().detach()) > 0.999


def test_the_logit_scale_of_a_bf16_tower_keeps_its_digits(tmp_path: Path) -> None:
    vision = {"timm_model_name": "vit_tiny_patch16_224", "timm_pool": "token", "timm_proj": "linear", "image_size": 224}
    teacher = load_teacher(write_folder(tmp_path, TEXT, vision_cfg=vision), CPU, "bf16")
    assert teacher.logit_scale == pytest.approx(float(np.exp(4.6052)), rel=1e-5)


# --- What names tell


def test_published_facts_reach_the_teacher_through_its_tag(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved(reference("tiny-vit"), tmp_path / "w.safetensors")
    facts = {"mean": (0.5,) * 3, "std": (0.5,) * 3, "interpolation": "bilinear", "resize_mode": "squash"}
    monkeypatch.setitem(_PRETRAINED, "tiny-vit", {"meta": {"file": str(path), **facts}})
    teacher = load_teacher("openclip:tiny-vit/meta", CPU)
    assert teacher.preprocess == Preprocess(32, (0.5,) * 3, (0.5,) * 3, interpolation="bilinear", resize_mode="squash")
    assert teacher.provenance[0].licence == "Apache-2.0"


def test_tags_that_differ_are_named_and_not_guessed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path = saved(reference("tiny-vit"), tmp_path / "w.safetensors")
    monkeypatch.setitem(_PRETRAINED, "tiny-vit", {"laion": {}, "webli": {"mean": (0.5,) * 3}})
    teacher = load_teacher(f"openclip:tiny-vit/{path}", CPU)
    assert teacher.preprocess.mean == pytest.approx(open_clip.OPENAI_DATASET_MEAN)
    assert "mean (0.5, 0.5, 0.5) of webli" in caplog.text
    assert f"openclip:tiny-vit/TAG/{path}" in caplog.text
    caplog.clear()
    assert load_teacher(f"openclip:tiny-vit/webli/{path}", CPU).preprocess.mean == (0.5,) * 3
    assert caplog.text == ""


def test_architectures_all_of_whose_weights_are_quickgelu(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    path.touch()
    names = ["RN50", "RN101", "RN50x4", "RN50x16", "RN50x64", "ViT-L-14-336", "ViT-H-14-378", "ViT-H-14-worldwide"]
    assert [find_source(f"{name}/{path}").facts.get("quick_gelu") for name in names] == [True] * len(names)
    assert not find_source(f"ViT-B-32/{path}").facts.get("quick_gelu")


def test_a_plus_in_a_path_joins_no_teachers(tmp_path: Path) -> None:
    path = tmp_path / "a+b" / "c+d.safetensors"
    path.parent.mkdir()
    saved(reference("tiny-vit"), path)
    assert load_teacher(f"openclip:tiny-vit/{path}", CPU).dim == 24
    joined = resolve_teachers(f"openclip:tiny-vit/{path} + embedded-s+openclip:tiny-rn/openai")
    assert [rest for _, rest in joined] == [f"tiny-vit/{path}", "", "tiny-rn/openai"]
    with pytest.raises(UnknownNameError, match="Did you mean 'embedded-s'"):
        resolve_teachers("embedded-m+embeded-s")
