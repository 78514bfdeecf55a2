"""Files of text towers: tokenizers, and configurations of the package transformers."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from open_clip.hf_configs import arch_dict
from open_clip.tokenizer import DEFAULT_CONTEXT_LENGTH, HFTokenizer, SimpleTokenizer
from torch import Tensor

from clipstill.core.errors import DataError, reason_of
from clipstill.core.files import read_json
from clipstill.core.hub import fetch
from clipstill.teachers.openclip_source import Source

_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "vocab.txt", "vocab.json", "*.model")
_BESIDE_THEM = ("merges.txt", "special_tokens_map.json", "added_tokens.json", "config.json")
_CONFIG = "config.json"
# Texts, and the length to pad and cut them to -> token ids (M, L).
Tokenizer = Callable[..., Tensor]


def load_tokenizer(source: Source) -> Tokenizer:
    """The tokenizer that open_clip would take, from files beside the weights or from its repository.

    Raises:
        ResourceError: Its repository cannot be reached.
        DataError: Its files are damaged.
    """
    text = source.config["text_cfg"]
    length, more = text.get("context_length", DEFAULT_CONTEXT_LENGTH), text.get("tokenizer_kwargs") or {}
    repository = text.get("hf_tokenizer_name")
    if not repository:
        simple: Tokenizer = SimpleTokenizer(context_length=length, **more)
        return simple
    folder = source.weights.parent
    if not any(path.is_file() for pattern in _TOKENIZER_FILES for path in folder.glob(pattern)):
        fetch(repository, _TOKENIZER_FILES)
        folder = fetch(repository, (*_TOKENIZER_FILES, *_BESIDE_THEM))
    try:
        mode = text.get("tokenizer_mode")
        tokenizer: Tokenizer = HFTokenizer(str(folder), context_length=length, tokenizer_mode=mode, **more)
    except Exception as error:  # transformers raises many kinds
        raise DataError(
            f"the tokenizer in {folder} cannot be read ({reason_of(error)}). Copy the files of {repository} there "
            f"again."
        ) from error
    return tokenizer


def is_multilingual(source: Source) -> bool:
    """Whether the tokenizer is one of many languages: of XLM-RoBERTa, mT5, NLLB, SigLIP 2 or SigLIP's i18n model."""
    name = source.config["text_cfg"].get("hf_tokenizer_name") or ""
    return re.search("xlm|mt5|nllb|i18n|siglip2|multilingual", name.lower()) is not None


def text_config_folder(source: Source) -> Path:
    """Folder with the configuration of a text tower of transformers, beside the weights or from its repository.

    Raises:
        ResourceError: Its repository cannot be reached.
    """
    beside = source.weights.parent / _CONFIG
    if beside.is_file() and read_json(beside).get("model_type") in arch_dict:
        return beside.parent
    return fetch(source.config["text_cfg"]["hf_model_name"], (_CONFIG,))
