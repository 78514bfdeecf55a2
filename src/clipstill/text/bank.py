"""Learned soft tokens on disk: tensors beside the facts that say for whom they were learned.

Shapes: C classes, n stored prompts a class, L soft tokens, E token width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clipstill.core.errors import ArtifactError, ConfigError, did_you_mean
from clipstill.core.files import read_json, write_bytes, write_json

if TYPE_CHECKING:
    from torch import Tensor

    from clipstill.core.protocols import Teacher
    from clipstill.text.prompts import PromptRequest

BANK_FILE = "bank.safetensors"
FACTS_FILE = "bank.json"
_TOKENS = "tokens"


@dataclass(frozen=True)
class Bank:
    """Soft tokens of every class, learned for one teacher in one sentence.

    Attributes:
        tokens_CnLE: float32, on the CPU.
        strategy: that learned them.
        teacher: its name.
        weights_sha256: of the teacher.
        template: the sentence that the tokens stand in.
        classes: the names, in the order of the rows.
        styles: the styles that row k was learned with are those of number k modulo their count.
        seed: of the run.
        settings: of the strategy.
        losses: mean over all prompts, at the first and at the last step; None where no step was made.
    """

    tokens_CnLE: Tensor
    strategy: str
    teacher: str
    weights_sha256: str
    template: str
    classes: tuple[str, ...]
    styles: tuple[str, ...]
    seed: int
    settings: dict[str, Any] = field(default_factory=dict)
    losses: tuple[float, float] | None = None

    @classmethod
    def learned(
        cls,
        request: PromptRequest,
        strategy: str,
        template: str,
        styles: tuple[str, ...],
        tokens_CnLE: Tensor,
        losses: Sequence[float],
    ) -> Bank:
        """What a strategy has just learned for a request; ``losses`` are those before each step."""
        return cls(
            tokens_CnLE=tokens_CnLE,
            strategy=strategy,
            teacher=request.teacher.name,
            weights_sha256=request.teacher.weights_sha256,
            template=template,
            classes=tuple(request.task.names),
            styles=styles,
            seed=request.seed,
            settings=request.settings.model_dump(mode="json", exclude={"bank"}),
            losses=(losses[0], losses[-1]) if losses else None,
        )

    def rows(self, names: Sequence[str]) -> Tensor:
        """The tokens of these classes, in this order.

        Raises:
            ConfigError: a class is not stored.
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
        """Whether these tokens mean for this run what they meant when they were learned.

        Raises:
            ConfigError: learned by another strategy, for another teacher, or in another sentence or other styles.
        """
        if self.strategy != strategy:
            raise ConfigError(
                f"the stored bank was learned by the strategy '{self.strategy}', this run has '{strategy}'. "
                f"Set prompts.strategy={self.strategy}, or learn again with prompts.bank=null."
            )
        if self.weights_sha256 != teacher.weights_sha256:
            raise ConfigError(
                f"the stored bank was learned for the weights of {self.teacher} ({self.weights_sha256[:12]}), this run "
                f"has {teacher.name} ({teacher.weights_sha256[:12]}). Choose that teacher, or learn again with "
                "prompts.bank=null."
            )
        if self.template != template:
            raise ConfigError(
                f"the stored bank was learned in the sentence '{self.template}', this run has '{template}'. "
                f"Set prompts.template='{self.template}', or learn again with prompts.bank=null."
            )
        if self.styles != tuple(styles):
            raise ConfigError(
                f"the stored bank was learned with the styles {', '.join(self.styles)}; this run has others. "
                "Give prompts.styles the same list, or learn again with prompts.bank=null."
            )

    def write(self, folder: Path) -> list[str]:
        """Write both files into a folder; returns their names."""
        from safetensors.torch import save

        write_bytes(folder / BANK_FILE, save({_TOKENS: self.tokens_CnLE.contiguous().clone()}))
        facts = {name: value for name, value in vars(self).items() if name != "tokens_CnLE"}
        write_json(folder / FACTS_FILE, facts)
        return [BANK_FILE, FACTS_FILE]


def bank_files(path: Path) -> tuple[Path, Path]:
    """The tensors and the facts of a bank that is named by its folder or by its ``bank.safetensors``.

    Raises:
        ConfigError: one of them is missing.
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
    """The bank that ``Bank.write`` left.

    Raises:
        ConfigError: a file is missing.
        ArtifactError: the files are malformed.
    """
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    tensors, facts = bank_files(path)
    stored = read_json(facts)
    try:
        tokens_CnLE = load_file(tensors)[_TOKENS]
        bank = Bank(
            tokens_CnLE=tokens_CnLE,
            strategy=str(stored["strategy"]),
            teacher=str(stored["teacher"]),
            weights_sha256=str(stored["weights_sha256"]),
            template=str(stored["template"]),
            classes=tuple(stored["classes"]),
            styles=tuple(stored["styles"]),
            seed=int(stored["seed"]),
            settings=dict(stored["settings"]),
            losses=None if stored["losses"] is None else (float(stored["losses"][0]), float(stored["losses"][1])),
        )
    except (OSError, SafetensorError, KeyError, TypeError, ValueError, IndexError) as error:
        raise ArtifactError(
            f"{tensors.parent} holds no bank of soft tokens ({type(error).__name__}: {error}). "
            "Learn it again with prompts.bank=null."
        ) from None
    whole = tokens_CnLE.dim() == 4 and len(tokens_CnLE) == len(bank.classes) and 0 not in tokens_CnLE.shape
    if not whole or tokens_CnLE.dtype != torch.float32 or not bool(tokens_CnLE.isfinite().all()):
        raise ArtifactError(
            f"{tensors} does not hold finite float32 tokens for the {len(bank.classes)} classes of {facts.name}. "
            "Learn them again with prompts.bank=null."
        )
    return bank
