"""Teachers of open_clip against open_clip itself: one small random model of each family.

    python benchmarks/teachers.py --out DIR [--only SigLIP ...]

Each model has the configuration of its family with fewer layers and random weights, in a folder as open_clip writes it;
tokenizers that the hub has are replaced by small ones of the same kind (start, end and padding tokens). Columns are
largest absolute differences, and marked (!) where they are above 1e-3:

- ``photos``: preprocessed photos of 640 x 360, 360 x 640 and 500 x 500 pixels, against ``preprocess_val``;
- ``images``, ``texts``: unit vectors, against ``encode_image`` and ``encode_text``;
- ``soft tokens``: token embeddings of texts, and learned prompts that start as words, against ``encode_text``;
- ``gradient``: gradient to the pixels, against that of open_clip's model, as a share of its largest value;
- ``bf16``: 1 - cosine of a bf16 model's vectors with those in full precision;
- ``bundle``: probabilities of a zero-shot bundle, run by onnxruntime, against open_clip's vectors.

``another photo`` is the difference of the unit vectors of two photos, the scale of ``images``. It takes
minutes, and 4 GB of memory.
"""

from __future__ import annotations

import argparse
import gc
import json
import logging
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
import open_clip
import torch
from open_clip.pretrained import get_pretrained_cfg
from open_clip.transform import PreprocessCfg, merge_preprocess_dict
from PIL import Image
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch.nn.functional import normalize
from transformers import AutoConfig, PreTrainedTokenizerFast

import clipstill
from clipstill.core.errors import ClipstillError
from clipstill.core.images import fit
from clipstill.core.seeds import generator_for
from clipstill.runtime import load_bundle
from clipstill.teachers import load_teacher
from clipstill.teachers.prompted import prompted

CPU = torch.device("cpu")
SIZES = ((640, 360), (360, 640), (500, 500))
NAMES = ["dog", "horse", "elephant"]
TOLERANCE = 1e-3
WORDS = ["a", "photo", "of", "the", *NAMES, ".", "x", "q"]
COLUMNS = ("photos", "images", "texts", "soft tokens", "gradient", "bf16", "bundle")
SIGLIP = {"timm_model_name": "vit_base_patch32_siglip_256", "image_size": 256}


@dataclass(frozen=True)
class Family:
    """A published model, and what is made smaller or otherwise."""

    title: str
    architecture: str
    tag: str
    vision: dict[str, Any] = field(default_factory=dict)
    preprocess: dict[str, Any] = field(default_factory=dict)
    tokenizer: str = ""  # Kind of the small tokenizer; empty for CLIP's own.


FAMILIES = (
    Family("CLIP ViT, QuickGELU", "ViT-B-32-quickgelu", "openai"),
    Family("CLIP ViT", "ViT-B-16", "laion2b_s34b_b88k"),
    Family("CLIP ResNet", "RN50", "openai"),
    Family("MetaCLIP", "ViT-B-32-quickgelu", "metaclip_fullcc"),
    Family("MetaCLIP 2, 378", "ViT-H-14-worldwide-378", "metaclip2_worldwide", tokenizer="roberta"),
    Family("DFN, 378", "ViT-H-14-378", "dfn5b"),
    Family("RoBERTa text", "roberta-ViT-B-32", "laion2b_s12b_b32k", tokenizer="roberta"),
    Family("XLM-RoBERTa text", "xlm-roberta-base-ViT-B-32", "laion5b_s13b_b90k", tokenizer="roberta"),
    Family("mT5 text", "mt5-base-ViT-B-32", "", tokenizer="t5"),
    Family("NLLB text", "nllb-clip-base", "v1", tokenizer="nllb"),
    Family("NLLB text, SigLIP", "nllb-clip-base-siglip", "v1", SIGLIP, tokenizer="nllb"),
    Family("ConvNeXt", "convnext_base", "laion400m_s13b_b51k", {"timm_model_name": "convnext_atto"}),
    Family("CoCa", "coca_ViT-B-32", "laion2b_s13b_b90k"),
    Family("EVA02", "EVA02-B-16", "merged2b_s8b_b131k", {"timm_model_name": "eva02_tiny_patch14_224"}),
    Family("SigLIP", "ViT-B-16-SigLIP", "webli", SIGLIP, tokenizer="t5"),
    Family("SigLIP 2", "ViT-B-16-SigLIP2", "webli", SIGLIP, tokenizer="gemma"),
    Family("PE", "PE-Core-T-16-384", "meta"),
    Family("CLIPA", "ViT-L-14-CLIPA", "datacomp1b", tokenizer="bert"),
    Family("MobileCLIP", "MobileCLIP-S1", "datacompdr"),
    Family("MobileCLIP 2", "MobileCLIP2-S0", "dfndr2b"),
    Family("ViTamin", "ViTamin-S", "datacomp1b"),
    Family("not square, cut", "ViT-B-32", "laion2b_s34b_b79k", {"image_size": [192, 256]}),
    Family(
        "not square, padded", "ViT-B-32", "", {"image_size": [256, 192]}, {"resize_mode": "longest", "fill_color": 99}
    ),
)


def small_config(family: Family) -> dict[str, Any]:
    """The family's configuration with two layers a tower, or a smaller network of timm."""
    config: dict[str, Any] = open_clip.get_model_config(family.architecture)
    vision, text = config["vision_cfg"], config["text_cfg"]
    if "timm_model_name" not in vision:
        if isinstance(vision["layers"], list):
            vision.update(layers=[1, 1, 1, 1], width=16)
        else:
            vision.update(layers=2, width=4 * vision.get("head_width", 64))
    vision.update(family.vision)
    if "layers" in text:
        text.update(layers=2, width=128, heads=2)
    if family.tokenizer and "hf_model_name" not in text:
        text["vocab_size"] = 64
    if "multimodal_cfg" in config:
        config["multimodal_cfg"].update(layers=1, width=128, heads=2)
    config["quick_gelu"] = bool(get_pretrained_cfg(family.architecture, family.tag).get("quick_gelu", False))
    return config


def write_tokenizer(kind: str, folder: Path) -> None:
    """A tokenizer of whole words with the special tokens of its kind."""
    special, start, end, pad = {
        "t5": (["<pad>", "</s>", "<unk>"], "", "</s>", "</s>"),
        "gemma": (["<pad>", "<eos>", "<bos>", "<unk>"], "", "<eos>", "<pad>"),
        "bert": (["[PAD]", "[UNK]", "[CLS]", "[SEP]"], "[CLS]", "[SEP]", "[PAD]"),
        "roberta": (["<s>", "<pad>", "</s>", "<unk>"], "<s>", "</s>", "<pad>"),
        "nllb": (["<s>", "<pad>", "</s>", "<unk>", "eng"], "eng", "</s>", "<pad>"),
    }[kind]
    vocabulary = {word: place for place, word in enumerate([*special, *WORDS])}
    unknown = next(word for word in special if "unk" in word.lower())
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=unknown))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    template = f"{start} $A {end}".strip()
    marks = [(word, vocabulary[word]) for word in (start, end) if word]
    tokenizer.post_processor = processors.TemplateProcessing(single=template, special_tokens=marks)
    more = {"sep_token": end} if kind == "bert" else {}
    whole = cast(Any, PreTrainedTokenizerFast)(
        tokenizer_object=tokenizer, pad_token=pad, eos_token=end, unk_token=unknown, padding_side="right", **more
    )
    whole.save_pretrained(folder)


def write_text_config(name: str, folder: Path) -> None:
    """A small text tower of the same kind, for transformers."""
    kind = next(
        kind
        for word, kind in (("xlm", "xlm-roberta"), ("roberta", "roberta"), ("mt5", "mt5"), ("nllb", "m2m_100"))
        if word in name
    )
    width = {"mt5": {"d_model": 64, "d_kv": 16, "d_ff": 64}, "m2m_100": {"d_model": 64}}.get(kind, {"hidden_size": 64})
    layers = {"mt5": {"num_layers": 2, "num_heads": 4}}.get(kind, {"num_hidden_layers": 2, "num_attention_heads": 4})
    if kind == "m2m_100":
        layers = {"encoder_layers": 2, "encoder_attention_heads": 4, "encoder_ffn_dim": 64, "decoder_layers": 1}
    pad = 1 if kind != "mt5" else 0
    more = {} if kind in ("mt5", "m2m_100") else {"intermediate_size": 64, "type_vocab_size": 1}
    config = AutoConfig.for_model(kind, vocab_size=64, pad_token_id=pad, **width, **layers, **more)
    config.save_pretrained(folder)


def write_model(family: Family, folder: Path) -> None:
    """Configuration, tokenizer and random weights, as open_clip keeps them."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    config = small_config(family)
    if family.tokenizer:
        write_tokenizer(family.tokenizer, folder)
    if name := config["text_cfg"].get("hf_model_name"):
        write_text_config(name, folder)
        # Else open_clip itself would ask the hub.
        config["text_cfg"]["hf_model_name"] = str(folder)
    published = merge_preprocess_dict(PreprocessCfg(), get_pretrained_cfg(family.architecture, family.tag))
    preprocess = {**published, **family.preprocess, "size": config["vision_cfg"]["image_size"]}
    told = {"model_cfg": config, "preprocess_cfg": preprocess}
    (folder / "open_clip_config.json").write_text(json.dumps(told))
    model = open_clip.create_model(f"local-dir:{folder}", load_weights=False, pretrained_text=False)
    with torch.no_grad():
        draw = generator_for("teachers", family.title)
        for name, tensor in model.named_parameters():
            # The usual start has residual branches that are nearly off and biases of zero, and sees little of an image.
            is_vector = tensor.dim() < 2 or tensor.numel() == len(tensor)
            scale = 0.1 if is_vector else tensor[0].numel() ** -0.5
            tensor.copy_(
                torch.randn(tensor.shape, generator=draw) * scale + float(tensor.dim() == 1 and "weight" in name)
            )
        model.logit_scale.fill_(4.0)
    save_file(
        {name: value.clone() for name, value in model.state_dict().items()}, folder / "open_clip_model.safetensors"
    )


def photo(width: int, height: int) -> Image.Image:
    """Colour noise on smooth shapes."""
    draw = np.random.default_rng((width, height))
    coarse = Image.fromarray(draw.integers(0, 256, (5, 7, 3), dtype=np.uint8)).resize((width, height))
    noise = draw.integers(-40, 41, (height, width, 3))
    return Image.fromarray((np.asarray(coarse) + noise).clip(0, 255).astype(np.uint8))


def gap(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found - expected).abs().max())


class Reference:
    """open_clip's own model, preprocessing and tokenizer, and what it gives for the photos and names."""

    def __init__(self, folder: Path) -> None:
        self.model, _, self.preprocess = open_clip.create_model_and_transforms(f"local-dir:{folder}")
        self.model.eval().requires_grad_(False)
        self.tokenizer = open_clip.get_tokenizer(f"local-dir:{folder}")
        self.photos = [photo(*size) for size in SIZES]
        self.inputs_N3HW = torch.stack([self.preprocess(each) for each in self.photos])
        self.images_ND = self.model.encode_image(self.inputs_N3HW, normalize=True)

    def texts(self, texts: list[str]) -> torch.Tensor:
        text_MD: torch.Tensor = self.model.encode_text(self.tokenizer(texts), normalize=True)
        return text_MD


def soft_tokens(teacher: Any, reference: Reference, texts: list[str]) -> float | str:
    try:
        found = gap(teacher.encode_tokens(*teacher.embed_tokens(texts)), reference.texts(texts))
        learner = prompted(teacher, count=4, visual_depth=0, text_depth=1, words="a photo of a")
        sentences = [f"a photo of a {name}." for name in NAMES]
        return max(found, gap(learner.class_vectors(NAMES).detach(), reference.texts(sentences)))
    except ClipstillError:
        return "refused"


def gradient(teacher: Any, reference: Reference, x_N3HW: torch.Tensor) -> float:
    target_D = normalize(torch.randn(teacher.dim, generator=torch.Generator().manual_seed(0)), dim=0)
    mean, std = (torch.tensor(each).view(3, 1, 1) for each in (teacher.preprocess.mean, teacher.preprocess.std))
    found = []
    for encode in (teacher.encode_image, lambda x: reference.model.encode_image((x - mean) / std, normalize=True)):
        pixels = x_N3HW.clone().requires_grad_()
        (encode(pixels) @ target_D).sum().backward()
        assert pixels.grad is not None
        found.append(pixels.grad)
    return gap(*found) / float(found[1].abs().max())


def bundle_gap(teacher: Any, name: str, reference: Reference, folder: Path) -> float:
    clipstill.zero_shot(classes=NAMES, out=folder, teacher=name, settings=["export.page=false"])
    bundle = load_bundle(folder)
    vectors_CD = next(iter(load_file(folder / "class_vectors.safetensors").values()))
    expected_NC = (teacher.logit_scale * reference.images_ND @ vectors_CD.T).softmax(-1)
    found_NC = bundle.probabilities(bundle.logits(np.stack([bundle.pixels(each) for each in reference.photos])))
    return gap(torch.from_numpy(found_NC).float(), expected_NC)


def row(family: Family, out: Path) -> dict[str, float | str]:
    folder = out / family.architecture
    write_model(family, folder)
    reference, name = Reference(folder), f"openclip:local-dir:{folder}"
    teacher: Any = load_teacher(name, CPU)
    pixels = np.stack([fit(each, teacher.preprocess) for each in reference.photos])
    x_N3HW = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255
    texts = ["a dog", "a photo of the elephant", "horse."]
    images_ND = teacher.encode_image(x_N3HW)
    found: dict[str, float | str] = {
        "photos": gap(teacher.prepared(x_N3HW), reference.inputs_N3HW),
        "images": gap(images_ND, reference.images_ND),
        "another photo": gap(reference.images_ND[0], reference.images_ND[1]),
        "texts": gap(teacher.encode_text(texts), reference.texts(texts)),
        "soft tokens": soft_tokens(teacher, reference, texts),
        "gradient": gradient(teacher, reference, x_N3HW),
        "bundle": bundle_gap(teacher, name, reference, out / "bundle"),
        "preprocessing": f"{teacher.preprocess.resize_mode}, {teacher.preprocess.interpolation}",
    }
    half = load_teacher(name, CPU, "bf16")
    pairs = ((half.encode_image(x_N3HW), images_ND), (half.encode_text(texts), teacher.encode_text(texts)))
    found["bf16"] = max(float(1 - (one * other).sum(-1).min()) for one, other in pairs)
    shutil.rmtree(folder)
    return found


def shown(value: float | str) -> str:
    if isinstance(value, str):
        return value
    return f"{value:.0e}{' (!)' if not value <= TOLERANCE else ''}" if value else "0"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for the models and bundles, which are removed")
    parser.add_argument("--only", nargs="*", help="families to measure, by their titles")
    args = parser.parse_args()
    logging.getLogger().setLevel(logging.ERROR)
    heads = ("family", "configuration", "preprocessing", *COLUMNS, "another photo")
    print("| " + " | ".join(heads) + " |\n" + "|---" * len(heads) + "|", flush=True)
    worst: list[str] = []
    for family in FAMILIES:
        if args.only and family.title not in args.only:
            continue
        with torch.no_grad(), torch.enable_grad():
            found = row(family, args.out)
        worst += [f"{family.title}, {name}" for name in COLUMNS if "(!)" in shown(found[name])]
        cells = (found["preprocessing"], *(shown(found[name]) for name in COLUMNS), f"{found['another photo']:.0e}")
        print(f"| {family.title} | {family.architecture} | " + " | ".join(map(str, cells)) + " |", flush=True)
        gc.collect()
    print(f"\nAbove {TOLERANCE}: {'; '.join(worst) or 'none'}")


if __name__ == "__main__":
    main()
