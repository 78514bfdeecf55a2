"""Every built-in model of open_clip as a teacher.

``openclip:ViT-B-32/openai`` names an architecture and a tag, whose weights open_clip fetches or finds in its cache;
``openclip:ViT-B-32-quickgelu//path/to/file.safetensors`` names a local file, and nothing is fetched.

Shapes: N images, M texts, D dimensions, L tokens, E token width, H x W pixels.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import open_clip
import torch
from open_clip.convert import convert_state_dict
from open_clip.model import convert_to_custom_text_state_dict, resize_pos_embed, resize_text_pos_embed
from open_clip.pretrained import download_pretrained, get_pretrained_cfg
from open_clip.transformer import text_global_pool
from torch import Tensor, nn
from torch.nn.functional import interpolate, normalize

from clipstill.core.batchnorm import statistics_gaps
from clipstill.core.checkpoints import read_state
from clipstill.core.errors import ConfigError, DataError, ResourceError, UnknownNameError, did_you_mean, reason_of
from clipstill.core.files import sha256_file
from clipstill.core.paths import user_path
from clipstill.core.protocols import Preprocess, Provenance
from clipstill.teachers import PRECISIONS
from clipstill.teachers.deep_prompts import text_vectors

CHECKPOINT_SUFFIXES = (".safetensors", ".pt", ".pth", ".bin", ".ckpt")
TEXT_BATCH = 256
# OpenAI's own archives store these three beside the weights; no other trainer does.
_OPENAI_MARKS = ("input_resolution", "context_length", "vocab_size")
# Licences of the weights by the first word of the tag, as their publishers state them. A word that is not here stays
# unknown, since related names differ: "datacomp" is MIT, "datacompdr" is not.
_LICENCES = {
    "openai": "MIT",
    "laion400m": "MIT",
    "laion2b": "MIT",
    "laion5b": "MIT",
    "datacomp": "MIT",
    "commonpool": "MIT",
    "webli": "Apache-2.0",
    "metaclip": "CC-BY-NC-4.0",
}


class OpenClipTeacher:
    """A frozen open_clip model that takes images in [0, 1] and normalises by itself.

    Args:
        model: CLIP or CustomTextCLIP of open_clip, on its device.
        tokenizer: Texts -> token ids (M, L).
        dim: Dimensions of the shared space.
        dtype: Precision of the towers' weights.
    """

    # CLIP learned from captions: sentences suit it better than bare words.
    templates = "plain"

    def __init__(
        self,
        model: Any,
        tokenizer: Callable[[list[str]], Tensor],
        *,
        name: str,
        dim: int,
        dtype: torch.dtype,
        preprocess: Preprocess,
        provenance: Provenance,
    ) -> None:
        self.name = name
        self.dim = dim
        self.image_size = preprocess.size
        self.preprocess = preprocess
        self.provenance: Sequence[Provenance] = (provenance,)
        self.weights_sha256 = provenance.sha256
        self._model = model.eval().requires_grad_(False)
        self.image_tower = model.visual
        self.image_parameters = sum(tensor.numel() for tensor in self.image_tower.parameters())
        self._tokenizer = tokenizer
        self.dtype = dtype
        # Stored as a logarithm: without exp the teacher's probabilities would be nearly uniform.
        self.logit_scale = float(self._model.logit_scale.detach().float().exp())
        self._device = self._model.logit_scale.device
        self._mean_311 = torch.tensor(preprocess.mean, device=self._device).view(3, 1, 1)
        self._std_311 = torch.tensor(preprocess.std, device=self._device).view(3, 1, 1)

    def encode_image(self, x_N3HW: Tensor) -> Tensor:
        """Images in [0, 1] of any size -> unit vectors (N, D), float32, differentiable to the pixels."""
        return normalize(self._model.encode_image(self.prepared(x_N3HW)).float(), dim=-1)

    def prepared(self, x_N3HW: Tensor) -> Tensor:
        """Images in [0, 1] of any size -> input of the image tower: resized, normalised, in its precision."""
        x_N3HW = (_fit(x_N3HW.to(self._device), self.image_size) - self._mean_311) / self._std_311
        return x_N3HW.to(self.dtype)

    @torch.no_grad()
    def encode_text(self, texts: Sequence[str]) -> Tensor:
        """Texts -> unit vectors (M, D), float32, no gradient. Texts are cut at the model's token limit."""
        return normalize(self.text_vectors(texts), dim=-1)

    @torch.no_grad()
    def text_vectors(self, texts: Sequence[str]) -> Tensor:
        """As ``encode_text``, but not of unit length."""
        parts = []
        for start in range(0, len(texts), TEXT_BATCH):
            ids_ML = self._tokenizer(list(texts[start : start + TEXT_BATCH])).to(self._device)
            parts.append(self._model.encode_text(ids_ML).float())
        return torch.cat(parts) if parts else torch.zeros(0, self.dim, device=self._device)

    @torch.no_grad()
    def embed_tokens(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Texts -> token embeddings (M, L, E), float32, and the position (M,) that the text's vector is read from.

        To insert n soft tokens before that position, add n to it, and cut the padding at the end so that L stays within
        the model's limit.
        """
        ids_ML = self._tokenizer(list(texts)).to(self._device)
        return self.text_tower.token_embedding(ids_ML).float(), self._read_position(ids_ML)

    def encode_tokens(self, embeddings_MLE: Tensor, position: Tensor) -> Tensor:
        """Token embeddings, learned ones among them -> unit vectors (M, D), differentiable to the embeddings."""
        embeddings_MLE = embeddings_MLE.to(self._device, self.dtype)
        return normalize(text_vectors(self.text_tower, embeddings_MLE, position.to(self._device)).float(), dim=-1)

    @property
    def text_tower(self) -> Any:
        """Module with the token embeddings, which plain CLIP keeps at its top level."""
        tower = getattr(self._model, "text", self._model)
        if not hasattr(tower, "token_embedding") or getattr(tower, "cls_emb", None) is not None:
            raise ConfigError(f"the text tower of {self.name} does not take soft tokens. Choose a plain CLIP model.")
        return tower

    def _read_position(self, ids_ML: Tensor) -> Tensor:
        tower = self.text_tower
        pool = getattr(tower, "text_pool_type", None) or tower.pool_type
        if pool not in ("argmax", "eos", "first", "last"):
            raise ConfigError(f"{self.name} pools its text by '{pool}', for which soft tokens are not defined.")
        eos = getattr(tower, "text_eos_id", None) or getattr(tower, "eos_id", None)
        places_ML = torch.arange(ids_ML.shape[1], device=ids_ML.device).expand(ids_ML.shape)
        position_M: Tensor = text_global_pool(places_ML, ids_ML, pool, eos)
        return position_M


class OpenClipResNetTeacher(OpenClipTeacher):
    """A model whose image tower has BatchNorm, such as RN50.

    CLIP's statistics are of web pictures with many faces, not of ImageNet-like photos; matching them helps less
    than it does with an ImageNet network (Wei et al., ICLR 2025).
    """

    statistics_networks: tuple[str, ...] = ()

    def encode_image_with_statistics(self, x_N3HW: Tensor) -> tuple[Tensor, Tensor]:
        """Unit vectors (N, D), and the mean over layers of ``statistics_gaps``."""
        with statistics_gaps(self.image_tower) as gaps:
            feat_ND = self.encode_image(x_N3HW)
        return feat_ND, torch.stack(gaps).mean()


def load_openclip(rest: str, device: torch.device, precision: str) -> OpenClipTeacher:
    """Load ``ARCHITECTURE/TAG`` or ``ARCHITECTURE/PATH``, with weights in ``"fp32"``, ``"bf16"`` or ``"fp16"``."""
    architecture, tag, file = _parse(rest)
    published = get_pretrained_cfg(architecture, tag) if tag else _usual_cfg(architecture)
    path = file or _fetch(architecture, tag, published)
    state = read_state(path)
    config = open_clip.get_model_config(architecture)
    quick = bool(config.get("quick_gelu", False))
    is_openai = any(mark in state for mark in _OPENAI_MARKS) or "openai" in path.stem
    if file is not None and not quick and is_openai:
        raise ConfigError(
            f"{path} holds OpenAI's weights, trained with QuickGELU, and {architecture} computes GELU. "
            f"Name the architecture {architecture}-quickgelu."
        )
    with _no_log():
        model = open_clip.create_model(
            architecture,
            precision=precision,
            device=device,
            # open_clip only warns where tag and architecture disagree, which costs points of accuracy.
            force_quick_gelu=quick or bool(published.get("quick_gelu", False)),
            pretrained_text=False,
            load_weights=False,
        )
    _load_state(model, state, architecture, path)
    has_batchnorm = any(isinstance(layer, nn.BatchNorm2d) for layer in model.visual.modules())
    teacher = OpenClipResNetTeacher if has_batchnorm else OpenClipTeacher
    size = model.visual.image_size
    licence = _LICENCES.get(tag.partition("_")[0], "unknown")
    return teacher(
        model,
        open_clip.get_tokenizer(architecture),
        name=f"openclip:{rest}",
        dim=int(config["embed_dim"]),
        dtype=getattr(torch, PRECISIONS[precision]),
        preprocess=Preprocess(
            size=size[0] if isinstance(size, (tuple, list)) else int(size),
            mean=published.get("mean", open_clip.OPENAI_DATASET_MEAN),
            std=published.get("std", open_clip.OPENAI_DATASET_STD),
        ),
        provenance=Provenance(f"open_clip {architecture}", licence, f"{architecture}/{file or tag}", sha256_file(path)),
    )


def _parse(rest: str) -> tuple[str, str, Path | None]:
    """Architecture, tag of published weights (empty for a local file), and local file (None for a tag)."""
    architecture, _, weights = rest.partition("/")
    known = open_clip.list_models()
    if architecture not in known:
        hint = did_you_mean(architecture, known)
        raise UnknownNameError(
            f"open_clip has no architecture '{architecture}'.{hint} Write openclip:ARCHITECTURE/TAG, "
            "e.g. openclip:ViT-B-32/openai, or openclip:ARCHITECTURE/PATH for a local file."
        )
    tags = open_clip.list_pretrained_tags_by_model(architecture)
    if not weights:
        raise ConfigError(
            f"'openclip:{architecture}' names no weights. Add a tag ({', '.join(tags) or 'none is published'}) "
            f"or a file: openclip:{architecture}/PATH."
        )
    if get_pretrained_cfg(architecture, weights):
        return architecture, weights, None
    file = user_path(weights)
    if file.suffix in CHECKPOINT_SUFFIXES:
        if not file.is_file():
            raise DataError(f"there is no checkpoint {file}. Check the path; an absolute one begins with two slashes.")
        return architecture, "", file
    raise UnknownNameError(
        f"'{weights}' is neither a tag of {architecture} nor a checkpoint file.{did_you_mean(weights, tags)} "
        f"Tags: {', '.join(tags) or 'none'}. Files end in {', '.join(CHECKPOINT_SUFFIXES)}."
    )


def _usual_cfg(architecture: str) -> dict[str, Any]:
    """Mean and std of an architecture whose published weights agree on them, for local files."""
    cfgs = [get_pretrained_cfg(architecture, tag) for tag in open_clip.list_pretrained_tags_by_model(architecture)]
    found = {(cfg["mean"], cfg["std"]) for cfg in cfgs}
    return dict(zip(("mean", "std"), found.pop(), strict=True)) if len(found) == 1 else {}


def _fetch(architecture: str, tag: str, published: dict[str, Any]) -> Path:
    try:
        return Path(download_pretrained(published))
    except Exception as error:  # any error of the network, the hub's client or the disk
        raise ResourceError(
            f"cannot get the weights of openclip:{architecture}/{tag} ({reason_of(error)}). Check the connection, or "
            f"give a local file: openclip:{architecture}/PATH."
        ) from error


def _load_state(model: Any, state: dict[str, Any], architecture: str, path: Path) -> None:
    """Load tensors that were read safely, as open_clip's own loader would."""
    state = {key: value for key, value in state.items() if key not in _OPENAI_MARKS}
    try:
        state = convert_state_dict(model, state)
        if "positional_embedding" in state and not hasattr(model, "positional_embedding"):
            state = convert_to_custom_text_state_dict(state)
        for scalar in ("logit_scale", "logit_bias"):
            if scalar in state and getattr(model, scalar, None) is not None:
                state[scalar] = state[scalar].reshape(getattr(model, scalar).shape)
        resize_pos_embed(state, model)
        resize_text_pos_embed(state, model)
        model.load_state_dict(state)
    except (RuntimeError, KeyError, AttributeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ConfigError(
            f"the weights in {path} are not of {architecture} ({reason}). Name the architecture "
            "that they were trained with; open_clip's names are in open_clip.list_models()."
        ) from None


def _fit(x_N3HW: Tensor, size: int) -> Tensor:
    """Resize the short side and cut the centre square, as the models saw their training images.

    Without antialias, features of large images move and accuracy drops. No clamp: it would kill the gradient of
    saturated pixels, and bicubic overshoot is small.
    """
    height, width = x_N3HW.shape[-2:]
    short = min(height, width)
    if short != size:
        height, width = round(height * size / short), round(width * size / short)
        x_N3HW = interpolate(x_N3HW, (height, width), mode="bicubic", antialias=True, align_corners=False)
    top, left = (height - size) // 2, (width - size) // 2
    return x_N3HW[..., top : top + size, left : left + size]


@contextmanager
def _no_log() -> Iterator[None]:
    """Silence open_clip's root-logger warning that the model is random: its weights are loaded right after."""
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)
    try:
        yield
    finally:
        root.setLevel(level)
