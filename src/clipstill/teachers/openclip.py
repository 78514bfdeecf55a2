"""Every model of open_clip as a teacher.

``openclip:ViT-B-32/openai`` names an architecture and a tag, whose weights are fetched or found in the hub's cache;
``openclip:ViT-B-32-quickgelu//path/to/file.safetensors`` names a local file. See ``openclip_source`` for more.

Shapes: N images, M texts, D dimensions, L tokens, E token width, H x W pixels.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import open_clip
import torch
from open_clip.transform import PreprocessCfg, merge_preprocess_dict
from open_clip.transformer import LayerNormFp32, text_global_pool
from torch import Tensor, nn
from torch.nn.functional import interpolate, normalize, pad

from clipstill.core.batchnorm import statistics_gaps
from clipstill.core.checkpoints import read_state
from clipstill.core.errors import ConfigError, DataError, reason_of
from clipstill.core.files import sha256_file
from clipstill.core.images import placement
from clipstill.core.protocols import INTERPOLATIONS, RESIZE_MODES, Preprocess, Provenance
from clipstill.teachers import PRECISIONS
from clipstill.teachers.deep_prompts import text_vectors
from clipstill.teachers.openclip_source import Source, find_source
from clipstill.teachers.openclip_text import Tokenizer, is_multilingual, load_tokenizer, text_config_folder
from clipstill.teachers.openclip_weights import OPENAI_MARKS, is_of_transformers, load_weights

TEXT_BATCH = 256


class OpenClipTeacher:
    """A frozen open_clip model that takes images in [0, 1] and normalises by itself.

    Args:
        model: CLIP or CustomTextCLIP of open_clip, on its device.
        tokenizer: Texts, and the number L of tokens if not the usual one -> token ids (M, L).
        dim: Dimensions of the shared space.
        multilingual: Whether the text tower reads other languages than English.
        dtype: Precision of the towers' weights.
    """

    # CLIP learned from captions: sentences suit it better than bare words.
    templates = "plain"

    def __init__(
        self,
        model: Any,
        tokenizer: Tokenizer,
        *,
        name: str,
        dim: int,
        multilingual: bool = False,
        dtype: torch.dtype,
        preprocess: Preprocess,
        provenance: Provenance,
    ) -> None:
        self.name = name
        self.dim = dim
        self.multilingual = multilingual
        self.image_size = max(preprocess.shape)
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
        return normalize(self._model.encode_image(self.prepared(x_N3HW), normalize=False).float(), dim=-1)

    def prepared(self, x_N3HW: Tensor) -> Tensor:
        """Images in [0, 1] of any size -> input of the image tower: resized, normalised, in its precision."""
        x_N3HW = (_fit(x_N3HW.to(self._device), self.preprocess) - self._mean_311) / self._std_311
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
            parts.append(self._model.encode_text(ids_ML, normalize=False).float())
        return torch.cat(parts) if parts else torch.zeros(0, self.dim, device=self._device)

    @torch.no_grad()
    def embed_tokens(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Texts -> token embeddings (M, L, E), float32, and the position (M,) that the text's vector is read from."""
        ids_ML = self._tokenizer(list(texts)).to(self._device)
        return self.text_tower.token_embedding(ids_ML).float(), self._read_position(ids_ML)

    @torch.no_grad()
    def embed_with_room(self, texts: Sequence[str], room: int) -> tuple[Tensor, Tensor]:
        """As ``embed_tokens`` after ``room`` more tokens were put between each text's start and its first word.

        They are the tokens from ``first_word`` on, zeros here. Long texts are cut to make room for them.

        Raises:
            ConfigError: So many tokens leave no room for a text.
        """
        length, first = self._tokenizer([""]).shape[1], self.first_word
        if room > length - first - 2:
            raise ConfigError(f"{room} soft tokens leave no room for a text: {self.name} reads {length} tokens.")
        ids_ML = self._tokenizer(list(texts), length - room).to(self._device)
        words_MLE, position_M = self.text_tower.token_embedding(ids_ML).float(), self._read_position(ids_ML)
        soft_MPE = words_MLE.new_zeros(len(words_MLE), room, words_MLE.shape[2])
        embeddings_MLE = torch.cat([words_MLE[:, :first], soft_MPE, words_MLE[:, first:]], 1)
        return embeddings_MLE, torch.where(position_M >= first, position_M + room, position_M)

    @torch.no_grad()
    def embed_words(self, text: str) -> Tensor:
        """Embeddings (W, E), float32, of a text's own tokens, without those of its start, its end and padding."""
        ids_L, empty_L = self._tokenizer([text, ""])
        start, length = self.first_word, len(ids_L)
        # After its words, a text goes on as the empty text does after its start.
        count = next(n for n in range(length) if torch.equal(ids_L[start + n :], empty_L[start : length - n]))
        words_WE: Tensor = self.text_tower.token_embedding(ids_L[start : start + count].to(self._device)).float()
        return words_WE

    @cached_property
    def first_word(self) -> int:
        """Place of a text's first word: 1 after a start token, 0 for tokenizers that have none, as SigLIP's."""
        empty_L, word_L = self._tokenizer(["", "x"])
        return int((empty_L != word_L).int().argmax())

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
    """Load what ``openclip_source.find_source`` finds, with weights in ``"fp32"``, ``"bf16"`` or ``"fp16"``."""
    source = find_source(rest)
    state = read_state(source.weights)
    quick = bool(source.config.get("quick_gelu", False)) or bool(source.facts.get("quick_gelu", False))
    if source.is_local and not quick and _is_quick(state, source.weights):
        raise ConfigError(
            f"{source.weights} holds weights that were trained with QuickGELU, as OpenAI's were, and {source.name} "
            f"computes GELU. Name the architecture {source.name}-quickgelu."
        )
    tokenizer, model = load_tokenizer(source), _new_model(source, device, precision, quick)
    # In bf16, a scale of 100 would be 98.9.
    model.logit_scale.data = model.logit_scale.data.float()
    load_weights(model, state, source.name, source.weights)
    has_batchnorm = any(isinstance(layer, nn.BatchNorm2d) for layer in model.visual.modules())
    teacher = OpenClipResNetTeacher if has_batchnorm else OpenClipTeacher
    title, digest = f"open_clip {source.name}", sha256_file(source.weights)
    return teacher(
        model,
        tokenizer,
        name=f"openclip:{rest}",
        dim=int(source.config["embed_dim"]),
        multilingual=is_multilingual(source),
        dtype=getattr(torch, PRECISIONS[precision]),
        preprocess=_preprocess(source.facts, model.visual.image_size),
        provenance=Provenance(title, source.licence, source.origin, digest),
    )


def _is_quick(state: dict[str, Any], path: Path) -> bool:
    """Whether a file of weights tells that it was trained with QuickGELU."""
    if is_of_transformers(state) and (path.parent / "config.json").is_file():
        return '"quick_gelu"' in (path.parent / "config.json").read_text(encoding="utf-8")
    return any(mark in state for mark in OPENAI_MARKS) or "openai" in path.stem


def _new_model(source: Source, device: torch.device, precision: str, quick: bool) -> Any:
    """The model with random weights."""
    text = dict(source.config["text_cfg"])
    if text.get("hf_model_name"):
        text |= {"hf_model_name": str(text_config_folder(source)), "hf_model_pretrained": False}
    # Text towers of transformers and CoCa's have parameters that open_clip leaves in full precision by mistake.
    is_mixed = "hf_model_name" in text or "multimodal_cfg" in source.config
    try:
        with _no_log():
            model = open_clip.create_model(
                source.model,
                precision=precision,
                device=device,
                # open_clip only warns where tag and architecture disagree, which costs points of accuracy.
                force_quick_gelu=quick,
                pretrained_text=False,
                load_weights=False,
                text_cfg=text,
            )
    except (TypeError, ValueError, KeyError, AttributeError, AssertionError, OSError) as error:
        raise DataError(
            f"open_clip cannot build the model that {source.name} describes ({reason_of(error)}). Check its "
            f"configuration."
        ) from error
    if is_mixed and precision != "fp32":
        model.to(getattr(torch, PRECISIONS[precision]))
        for layer in model.modules():
            if isinstance(layer, LayerNormFp32):
                layer.float()
    return model


def _preprocess(facts: dict[str, Any], size: int | Sequence[int]) -> Preprocess:
    """What open_clip's ``image_transform_v2`` does for these facts."""
    config = PreprocessCfg(**merge_preprocess_dict(PreprocessCfg(), facts))
    height, width = (size, size) if isinstance(size, int) else size
    interpolation, mode = config.interpolation, config.resize_mode
    if interpolation == "random" or (mode == "shortest" and height != width):
        interpolation = "bicubic"  # As open_clip's own, whatever it is asked for.
    if interpolation not in INTERPOLATIONS or mode not in RESIZE_MODES:
        raise ConfigError(
            f"the preprocessing of this model is '{mode}' by '{interpolation}'; known are {', '.join(RESIZE_MODES)} by "
            f"{', '.join(INTERPOLATIONS)}. Change its preprocess_cfg."
        )
    mean, std = ((value,) * 3 if isinstance(value, (int, float)) else value for value in (config.mean, config.std))
    return Preprocess(
        size=height if height == width else (height, width),
        mean=(float(mean[0]), float(mean[1]), float(mean[2])),
        std=(float(std[0]), float(std[1]), float(std[2])),
        interpolation=interpolation,
        resize_mode=mode,
        fill=int(config.fill_color),
    )


def _fit(x_N3HW: Tensor, preprocess: Preprocess) -> Tensor:
    """Resize and cut or pad as the model saw its training images.

    Without antialias, features of large images move and accuracy drops. No clamp: it would kill the gradient of
    saturated pixels, and bicubic overshoot is small.
    """
    height, width = x_N3HW.shape[-2:]
    rows, columns = preprocess.shape
    (new_width, new_height), (left, top) = placement((width, height), preprocess)
    if (new_height, new_width) != (height, width):
        size = (new_height, new_width)
        x_N3HW = interpolate(x_N3HW, size, mode=preprocess.interpolation, antialias=True, align_corners=False)
    if preprocess.resize_mode == "longest":
        margins = (-left, columns - new_width + left, -top, rows - new_height + top)
        return pad(x_N3HW, margins, value=preprocess.fill / 255)
    return x_N3HW[..., top : top + rows, left : left + columns]


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
