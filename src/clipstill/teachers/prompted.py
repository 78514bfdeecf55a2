"""Teachers with learned prompts: their own weights are frozen, and a few thousand parameters beside them are trained.

Images go through a prompted teacher's prompts, and ``class_vectors`` makes the vectors of any classes. No class is
stored in it, so that it serves other classes than those it was trained with.

Shapes: N images, C classes, P prompt tokens, E token width, R rank, D dimensions, H x W pixels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from open_clip.zero_shot_metadata import OPENAI_IMAGENET_TEMPLATES
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.functional import normalize

from clipstill.core.checkpoints import checkpoint_in, deep_prompts, read_own_tensors, read_state
from clipstill.core.errors import ArtifactError, ConfigError
from clipstill.core.files import atomic_path, sha256_json
from clipstill.core.names import spoken
from clipstill.core.progress import say
from clipstill.core.protocols import Teacher
from clipstill.core.seeds import generator_for
from clipstill.core.tensors import tensor_digest
from clipstill.teachers.deep_prompts import SIGMA, TextPrompts, VisualPrompts
from clipstill.teachers.embedded import EmbeddedTeacher
from clipstill.teachers.openclip import OpenClipTeacher

__all__ = ["PromptedTeacher", "load_prompts", "prompted", "save_prompts"]

_FORMAT = "1"
# Name of the text prompts of the first layer in the authors' checkpoints.
_FIRST = "prompt_learner.ctx"
# Names of a CLIP's prompts in its module, and so in files of them.
_TEXT, _VISUAL = "text_prompts.tokens_KPE", "visual_prompts.tokens_KPE"


class _Prompted(nn.Module):
    """Base of both kinds. The module's parameters are the learned ones; ``core.protocols`` documents the methods.

    Args:
        base: The unchanged teacher, whose own vectors are the zero-shot ones; not part of the module's parameters.
        settings: Settings of the prompts that their shapes do not tell, stored with them.
    """

    learns_after_towers = False

    def __init__(self, base: Teacher, settings: Mapping[str, Any] = MappingProxyType({})) -> None:
        super().__init__()
        self.base = base
        self.settings = dict(settings)
        self.name = base.name
        self.image_size = base.image_size
        self.dim = base.dim
        self.logit_scale = base.logit_scale
        self.preprocess = base.preprocess
        self.templates = base.templates
        self.multilingual = base.multilingual
        self.image_parameters = base.image_parameters
        self.provenance = base.provenance
        # Texts take no learned prompts but in ``class_vectors``.
        self.encode_text = base.encode_text
        self.embed_tokens = base.embed_tokens
        self.encode_tokens = base.encode_tokens

    @property
    def weights_sha256(self) -> str:
        return sha256_json([self.base.weights_sha256, tensor_digest(dict(self.named_parameters()))])

    @torch.no_grad()
    def plain_image(self, x_N3HW: Tensor) -> Tensor:
        return self.base.encode_image(x_N3HW)


class PromptedOpenClip(_Prompted):
    """Deep prompts in both towers of a CLIP with a vision transformer.

    ``words`` are the start of the first layer's text prompts, if they are ``count`` tokens; otherwise it is random.

    Source: Li et al., PromptKD, CVPR 2024; Khattak et al., PromptSRC, ICCV 2023 (its independent prompts).
    """

    base: OpenClipTeacher

    def __init__(
        self, base: OpenClipTeacher, *, count: int, visual_depth: int, text_depth: int, words: str, seed: int
    ) -> None:
        super().__init__(base)
        first_PE = base.embed_words(words)
        if len(first_PE) != count:
            draw = generator_for(seed, "text prompts", 0)
            first_PE = SIGMA * torch.randn(count, first_PE.shape[1], generator=draw).to(first_PE.device)
        self.text_prompts = TextPrompts(base.text_tower, first_PE, base.first_word, depth=text_depth, seed=seed)
        self.visual_prompts: VisualPrompts | None = None
        if visual_depth:
            self.add_visual_prompts(count, visual_depth, seed)
        self._count = count

    def add_visual_prompts(self, count: int, depth: int, seed: int) -> None:
        device = self.text_prompts.tokens_KPE.device
        self.visual_prompts = VisualPrompts(self.base.image_tower, count, depth, seed).to(device)

    def encode_image(self, x_N3HW: Tensor) -> Tensor:
        if self.visual_prompts is None:
            return self.plain_image(x_N3HW)
        return normalize(self.visual_prompts(self.base.image_tower, self.base.prepared(x_N3HW)).float(), dim=-1)

    def prompted_image(self, x_N3HW: Tensor, plain_ND: Tensor) -> Tensor:
        return self.encode_image(x_N3HW)

    def class_vectors(self, names: Sequence[str]) -> Tensor:
        texts = [f"{spoken(name)}." for name in names]
        embeddings_CLE, position_C = self.base.embed_with_room(texts, self._count)
        embeddings_CLE = embeddings_CLE.to(self.base.dtype)
        return normalize(self.text_prompts(self.base.text_tower, embeddings_CLE, position_C).float(), dim=-1)

    def plain_class_vectors(self, names: Sequence[str]) -> Tensor:
        """Mean over the eighty ImageNet sentences of CLIP's authors, of vectors that are not normalised.

        Khattak et al. (PromptSRC, ICCV 2023) take sixty sentences.
        """
        texts = ([sentence(spoken(name)) for sentence in OPENAI_IMAGENET_TEMPLATES] for name in names)
        return normalize(torch.stack([self.base.text_vectors(each).mean(0) for each in texts]), dim=-1)


class PromptedEmbedded(_Prompted):
    """Soft tokens before the class name, and a projection after the image towers that starts as the identity.

    An extension of clipstill: convolutional towers have no tokens to learn.
    """

    base: EmbeddedTeacher
    learns_after_towers = True

    def __init__(self, base: EmbeddedTeacher, words: str, rank: int, seed: int) -> None:
        super().__init__(base, {"words": words, "rank": rank})
        embedded_1LE, mask_1L = base.embed_tokens([words])
        # Without the tokens of start and end.
        first_PE = embedded_1LE[0, 1 : int(mask_1L[0].sum()) - 1]
        self.text_tokens_PE = nn.Parameter(first_PE.detach().float().clone())
        draw = generator_for(seed, "image projection")
        into_RD = torch.randn(rank, base.dim, generator=draw) / base.dim**0.5
        self.image_into_RD = nn.Parameter(into_RD.to(first_PE.device))
        self.image_out_DR = nn.Parameter(torch.zeros(base.dim, rank, device=first_PE.device))

    def encode_image(self, x_N3HW: Tensor) -> Tensor:
        return self.project(self.base.encode_image(x_N3HW))

    def plain_class_vectors(self, names: Sequence[str]) -> Tensor:
        return self.base.encode_text([spoken(name) for name in names])

    def prompted_image(self, x_N3HW: Tensor, plain_ND: Tensor) -> Tensor:
        return self.project(plain_ND)

    def project(self, vectors_ND: Tensor) -> Tensor:
        return normalize(vectors_ND + vectors_ND @ self.image_into_RD.T @ self.image_out_DR.T, dim=-1)

    def class_vectors(self, names: Sequence[str]) -> Tensor:
        embeddings_CLE, mask_CL = self.base.embed_tokens([spoken(name) for name in names])
        soft_CPE = self.text_tokens_PE.expand(len(names), -1, -1)
        with_soft = torch.cat([embeddings_CLE[:, :1], soft_CPE, embeddings_CLE[:, 1:]], 1)
        with_mask = torch.cat([mask_CL[:, :1].expand(-1, 1 + soft_CPE.shape[1]), mask_CL[:, 1:]], 1)
        return self.base.encode_tokens(with_soft, with_mask)


PromptedTeacher = PromptedOpenClip | PromptedEmbedded


def prompted(
    base: Teacher,
    *,
    count: int = 4,
    visual_depth: int = 9,
    text_depth: int = 9,
    words: str = "a photo of a",
    rank: int = 64,
    seed: int = 0,
) -> PromptedTeacher:
    """A teacher with untrained prompts.

    Args:
        base: Teacher of open_clip, or an embedded one.
        count: Prompt tokens per layer of both towers, for open_clip.
        visual_depth: Layers of the image tower with prompts, for open_clip; 0 for none.
        text_depth: Layers of the text tower with prompts, for open_clip; at least 1.
        words: Words that the text prompts start as.
        rank: Rank of the image projection, for an embedded teacher; 0 for none.

    Raises:
        ConfigError: The teacher is of another kind, or its towers do not take prompts.
    """
    if isinstance(base, EmbeddedTeacher):
        return PromptedEmbedded(base, words, rank, seed)
    if isinstance(base, OpenClipTeacher):
        return PromptedOpenClip(
            base, count=count, visual_depth=visual_depth, text_depth=text_depth, words=words, seed=seed
        )
    raise ConfigError(f"the teacher {base.name} takes no prompts. Choose an embedded one or one of open_clip.")


def save_prompts(teacher: PromptedTeacher, path: Path) -> None:
    """Write the learned parameters, their settings and their teacher's name and hash."""
    tensors = {name: value.detach().cpu().contiguous() for name, value in teacher.named_parameters()}
    settings = {name: str(value) for name, value in teacher.settings.items()}
    metadata = {"format": _FORMAT, "teacher": teacher.name, "teacher_sha256": teacher.base.weights_sha256, **settings}
    with atomic_path(path) as temporary:
        save_file(tensors, temporary, metadata)


def load_prompts(base: Teacher, path: Path) -> PromptedTeacher:
    """A teacher with learned prompts, for any classes.

    Args:
        base: The teacher without prompts.
        path: What ``save_prompts`` wrote; or a checkpoint of PromptSRC or PromptKD as their code saves it, its folder,
            or its state dict as safetensors. Depths and numbers of tokens are read from the file.

    Raises:
        DataError: There is no such file or folder, or it is no plain state dict.
        ArtifactError: The file is damaged, or of another teacher or architecture.
    """
    path = checkpoint_in(path)
    tensors: dict[str, Tensor] = {}
    metadata: dict[str, str] = {}
    if path.suffix == ".safetensors":
        tensors, metadata = read_own_tensors(path, "It holds no prompts; train the teacher again.")
    if "teacher_sha256" not in metadata:
        return _imported(base, path)
    if metadata.get("format") != _FORMAT or metadata["teacher_sha256"] != base.weights_sha256:
        raise ArtifactError(
            f"{path} holds prompts of the teacher {metadata.get('teacher', 'unknown')}, whose weights are not those of "
            f"{base.name}. Name that teacher, or train prompts for this one."
        )
    if isinstance(base, OpenClipTeacher):
        return _with_tokens(base, tensors, path)
    teacher = prompted(base, words=metadata["words"], rank=int(metadata["rank"]))
    teacher.load_state_dict(tensors)
    return teacher


def _imported(base: Teacher, path: Path) -> PromptedTeacher:
    """Prompts of the authors' code; the tokens of its classes and CLIP's own weights beside them are ignored."""
    state = read_state(path)
    text_KPE = deep_prompts(state, _FIRST, "text_encoder")
    if not isinstance(base, OpenClipTeacher) or text_KPE is None:
        raise ArtifactError(
            f"{path} cannot be taken for the prompts of {base.name}: that needs a checkpoint of PromptSRC (with "
            f"'{_FIRST}') and a CLIP of open_clip."
        )
    visual_KPE = deep_prompts(state, "image_encoder.VPT", "image_encoder")
    tensors = {_TEXT: text_KPE} if visual_KPE is None else {_TEXT: text_KPE, _VISUAL: visual_KPE}
    counts = [f"{name.partition('_')[0]} {tuple(tokens_KPE.shape)}" for name, tokens_KPE in tensors.items()]
    say(f"prompts of {path} (layers, tokens, width): {', '.join(counts)}")
    return _with_tokens(base, tensors, path)


def _with_tokens(base: OpenClipTeacher, tensors: Mapping[str, Tensor], path: Path) -> PromptedOpenClip:
    """A teacher with the given prompts, as many and in as many layers of each tower as there are."""
    text_KPE, visual_KPE = tensors[_TEXT], tensors.get(_VISUAL)
    text_depth, count, _ = text_KPE.shape
    teacher = PromptedOpenClip(base, count=count, visual_depth=0, text_depth=text_depth, words="", seed=0)
    if visual_KPE is not None:
        teacher.add_visual_prompts(visual_KPE.shape[1], visual_KPE.shape[0], seed=0)
    wanted = {name: tuple(value.shape) for name, value in teacher.named_parameters()}
    found = {name: tuple(value.shape) for name, value in tensors.items()}
    if wanted != found:
        raise ArtifactError(f"{path} holds prompts of shapes {found}; {base.name} takes {wanted}. Name their teacher.")
    teacher.load_state_dict(tensors)
    return teacher
