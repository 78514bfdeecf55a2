"""Stores learned soft tokens: a file of tensors, and a JSON file of what they were learned for.

Shapes: C classes, n stored prompts per class, L soft tokens, E token width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clipstill.core.errors import ArtifactError, ConfigError, did_you_mean
from clipstill.core.files import read_json, write_json

if TYPE_CHECKING:
    from torch import Tensor

    from clipstill.core.protocols import Teacher

_BANK_FILE = "bank.safetensors"
_FACTS_FILE = "bank.json"
_TOKENS = "tokens"


@dataclass(frozen=True, kw_only=True)
class Bank:
    """Soft tokens of every class, learned for one teacher inside one sentence."""

    tokens_CnLE: Tensor  # Float32 tokens on the CPU.
    strategy: str  # Prompt strategy that learned them.
    teacher: str  # Name of the teacher.
    weights_sha256: str  # Hash of the teacher's weights.
    template: str  # Sentence around the tokens.
    classes: tuple[str, ...]  # Class names in the order of the rows.
    styles: tuple[str, ...]  # Row k of a class was learned with style k modulo the number of styles.
    seed: int  # Seed of the run.
    settings: dict[str, Any]  # Settings of the strategy.
    losses: Sequence[float] | None  # Mean loss at the first and at the last step; None without steps.

    def rows(self, names: Sequence[str]) -> Tensor:
        """The tokens of these classes, in this order.

        Raises:
            ConfigError: A class is not stored.
        """
        row = {name: number for number, name in enumerate(self.classes)}
        for name in names:
            if name not in row:
                raise ConfigError(
                    f"class '{name}' is not among the {len(row)} of the stored bank."
                    f"{did_you_mean(name, self.classes)} Leave the class out, or learn again with prompts.bank=null."
                )
        return self.tokens_CnLE[[row[name] for name in names]]

    def check(self, strategy: str, teacher: Teacher, template: str, styles: Sequence[str]) -> None:
        """Raise a ``ConfigError`` if the tokens were learned for another strategy, teacher, sentence or styles."""
        ours, theirs = self.weights_sha256, teacher.weights_sha256
        if self.strategy != strategy:
            mismatch = f"by the strategy '{self.strategy}'; this run has '{strategy}'"
            remedy = f"Set prompts.strategy={self.strategy}"
        elif ours != theirs:
            mismatch = f"for the weights of {self.teacher} ({ours[:12]}); this run has {teacher.name} ({theirs[:12]})"
            remedy = "Choose that teacher"
        elif self.template != template:
            mismatch = f"in the sentence '{self.template}'; this run has '{template}'"
            remedy = f"Set prompts.template='{self.template}'"
        elif self.styles != tuple(styles):
            mismatch = f"with the styles {', '.join(self.styles)}; this run has others"
            remedy = "Set prompts.styles to the same list"
        else:
            return
        raise ConfigError(f"the stored bank was learned {mismatch}. {remedy}, or learn again with prompts.bank=null.")

    def write(self, folder: Path) -> list[str]:
        """Write both files into a folder; returns their names."""
        from clipstill.core.tensors import write_tensors

        write_tensors(folder / _BANK_FILE, {_TOKENS: self.tokens_CnLE})
        write_json(folder / _FACTS_FILE, {name: value for name, value in vars(self).items() if name != "tokens_CnLE"})
        return [_BANK_FILE, _FACTS_FILE]


def bank_files(path: Path) -> tuple[Path, Path]:
    """Both files of a bank, given its folder or its ``bank.safetensors``.

    Raises:
        ConfigError: One of them is missing.
    """
    tensors = path / _BANK_FILE if path.is_dir() else path
    facts = tensors.with_name(_FACTS_FILE)
    for file in (tensors, facts):
        if not file.is_file():
            raise ConfigError(
                f"prompts.bank = {path}: there is no file {file}. Name a {_BANK_FILE} that has its {_FACTS_FILE} "
                "beside it, or their folder: stages/prompts of a run that learned prompts."
            )
    return tensors, facts


def read_bank(path: Path) -> Bank:
    """Read the files of ``Bank.write``.

    Raises:
        ConfigError: A file is missing.
        ArtifactError: A file is malformed.
    """
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    tensors, facts = bank_files(path)
    stored = read_json(facts)
    try:
        tuples = {name: tuple(stored[name]) for name in ("classes", "styles")}
        tokens_CnLE = load_file(tensors)[_TOKENS]
        bank = Bank(tokens_CnLE=tokens_CnLE, **{**stored, **tuples})
        is_whole = tokens_CnLE.dim() == 4 and len(tokens_CnLE) == len(bank.classes) and 0 not in tokens_CnLE.shape
        if not is_whole or tokens_CnLE.dtype != torch.float32 or not bool(tokens_CnLE.isfinite().all()):
            raise ValueError(f"{tensors.name} does not hold finite float32 tokens for its {len(bank.classes)} classes")
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise ArtifactError(
            f"{tensors.parent} holds no bank of soft tokens ({type(error).__name__}: {error}). "
            "Learn it again with prompts.bank=null."
        ) from None
    return bank
