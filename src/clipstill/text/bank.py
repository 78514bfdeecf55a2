"""Learned soft tokens on disk: a file of tensors, and a JSON file that says what they were learned for.

Shapes: C classes, n stored prompts per class, L soft tokens, E token width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clipstill.core.errors import ArtifactError, ConfigError, did_you_mean
from clipstill.core.files import read_json, write_bytes, write_json

if TYPE_CHECKING:
    from torch import Tensor

    from clipstill.core.protocols import Teacher

BANK_FILE = "bank.safetensors"
FACTS_FILE = "bank.json"
_TOKENS = "tokens"


@dataclass(frozen=True, kw_only=True)
class Bank:
    """Soft tokens of every class, learned for one teacher in one sentence."""

    tokens_CnLE: Tensor  # Float32 tokens on the CPU.
    strategy: str  # Prompt strategy that learned them.
    teacher: str  # Name of the teacher.
    weights_sha256: str  # Hash of the teacher's weights.
    template: str  # Sentence that the tokens stand in.
    classes: tuple[str, ...]  # Class names in the order of the rows.
    styles: tuple[str, ...]  # Row k of a class was learned with style k modulo their number.
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
        """Check that the tokens fit a run.

        Raises:
            ConfigError: Learned by another strategy, for another teacher, in another sentence or with other styles.
        """
        ours, theirs = self.weights_sha256, teacher.weights_sha256
        checks = (
            (
                self.strategy == strategy,
                f"by the strategy '{self.strategy}'; this run has '{strategy}'. Set prompts.strategy={self.strategy}",
            ),
            (
                ours == theirs,
                f"for the weights of {self.teacher} ({ours[:12]}); this run has {teacher.name} ({theirs[:12]}). "
                "Choose that teacher",
            ),
            (
                self.template == template,
                f"in the sentence '{self.template}'; this run has '{template}'. Set prompts.template='{self.template}'",
            ),
            (
                self.styles == tuple(styles),
                f"with the styles {', '.join(self.styles)}; this run has others. Set prompts.styles to the same list",
            ),
        )
        for fits, mismatch in checks:
            if not fits:
                raise ConfigError(f"the stored bank was learned {mismatch}, or learn again with prompts.bank=null.")

    def write(self, folder: Path) -> list[str]:
        """Write both files into a folder; returns their names."""
        from safetensors.torch import save

        write_bytes(folder / BANK_FILE, save({_TOKENS: self.tokens_CnLE.contiguous().clone()}))
        write_json(folder / FACTS_FILE, {name: value for name, value in vars(self).items() if name != "tokens_CnLE"})
        return [BANK_FILE, FACTS_FILE]


def bank_files(path: Path) -> tuple[Path, Path]:
    """Both files of a bank, given its folder or its ``bank.safetensors``.

    Raises:
        ConfigError: One of them is missing.
    """
    tensors = path / BANK_FILE if path.is_dir() else path
    facts = tensors.with_name(FACTS_FILE)
    for file in (tensors, facts):
        if not file.is_file():
            raise ConfigError(
                f"prompts.bank = {path}: there is no file {file}. Name a {BANK_FILE} that has its {FACTS_FILE} "
                "beside it, or their folder: stages/prompts of a run that learned prompts."
            )
    return tensors, facts


def read_bank(path: Path) -> Bank:
    """Read what ``Bank.write`` wrote.

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
        bank = Bank(tokens_CnLE=load_file(tensors)[_TOKENS], **{**stored, **tuples})
    except (OSError, SafetensorError, KeyError, TypeError) as error:
        raise ArtifactError(
            f"{tensors.parent} holds no bank of soft tokens ({type(error).__name__}: {error}). "
            "Learn it again with prompts.bank=null."
        ) from None
    tokens_CnLE = bank.tokens_CnLE
    is_whole = tokens_CnLE.dim() == 4 and len(tokens_CnLE) == len(bank.classes) and 0 not in tokens_CnLE.shape
    if not is_whole or tokens_CnLE.dtype != torch.float32 or not bool(tokens_CnLE.isfinite().all()):
        raise ArtifactError(
            f"{tensors} does not hold finite float32 tokens for the {len(bank.classes)} classes of {facts.name}. "
            "Learn them again with prompts.bank=null."
        )
    return bank
