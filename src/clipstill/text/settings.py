"""What can be set about prompts. Light: no tensor library is loaded."""

from __future__ import annotations

from dataclasses import dataclass

from clipstill.core.errors import ConfigError
from clipstill.text.templates import DEFAULT, sentence_template

AUTO_SIGMA = "auto"
ORDERS = ("joint", "sequential")


@dataclass(frozen=True)
class PromptSettings:
    """How prompts are diversified. A strategy looks at what concerns it and leaves the rest.

    Attributes:
        template: sentence of the images: ``"default"`` for the strategy's own, the name of a template set, or a text
            with ``{class}``, and ``{style}`` or ``{tokens}`` where the style and the soft tokens belong.
        mix_styles: styled texts that each image mixes, at least 2 (``mix``).
        mix_concentration: of the Dirichlet distribution of their weights; 1 is uniform (``mix``).
        pseudo_styles: pseudo-words that ``contrastive`` learns a class, and ids that ``random`` numbers its draws by.
        tokens: soft tokens a prompt.
        sigma: standard deviation of their start: ``"auto"`` for that of the teacher's own token embeddings, or a
            number.
        steps: of Adam, for each prompt; 0 leaves the tokens as they were drawn.
        lr: of Adam, in units of token embeddings.
        temperature: of the contrastive loss.
        noise: added to the token embeddings of an augmented view, as a share of sigma.
        dropout: share of the numbers in an augmented view's token embeddings that are set to zero, in [0, 1).
        content_weight: of the term that keeps the class (``sdd`` and ``contrastive``).
        content_temperature: of that term.
        order: ``"joint"``, or ``"sequential"``: each prompt is pushed away from the earlier ones (``contrastive``).
    """

    template: str = DEFAULT
    mix_styles: int = 2
    mix_concentration: float = 1.0
    pseudo_styles: int = 16
    tokens: int = 4
    sigma: float | str = AUTO_SIGMA
    steps: int = 200
    lr: float = 0.01
    temperature: float = 0.1
    noise: float = 0.1
    dropout: float = 0.1
    content_weight: float = 1.0
    content_temperature: float = 0.01
    order: str = "joint"

    def __post_init__(self) -> None:
        """Refuse values that no prompt can be made with.

        Raises:
            ConfigError: names the setting and what it may be.
            UnknownNameError: no template set of that name.
        """
        for name, (least, most) in _RANGES.items():
            value = getattr(self, name)
            if not least <= value <= most:
                raise ConfigError(f"prompts.{name} is {value}. It must lie between {least:g} and {most:g}.")
        if isinstance(self.sigma, str):
            if self.sigma != AUTO_SIGMA:
                raise ConfigError(f"prompts.sigma is '{self.sigma}'. It must be '{AUTO_SIGMA}' or a number above 0.")
        elif not 0 < self.sigma <= _LARGEST_SIGMA:
            raise ConfigError(f"prompts.sigma is {self.sigma}. It must lie above 0, up to {_LARGEST_SIGMA:g}.")
        if self.order not in ORDERS:
            raise ConfigError(f"prompts.order is '{self.order}'. It must be one of {', '.join(ORDERS)}.")
        # Which set "auto" stands for is the teacher's to say; here it is only asked whether the name is known.
        sentence_template(self.template, "{class}", suited="plain")


_MANY = 10_000_000
_LARGEST_SIGMA = 100.0
_RANGES: dict[str, tuple[float, float]] = {
    "mix_styles": (2, 64),
    "mix_concentration": (1e-3, 1e3),
    "pseudo_styles": (1, 100_000),
    "tokens": (1, 64),
    "steps": (0, _MANY),
    "lr": (1e-6, 100),
    "temperature": (1e-3, 100),
    "noise": (0, 100),
    "dropout": (0, 0.99),
    "content_weight": (0, _MANY),
    "content_temperature": (1e-3, 100),
}
