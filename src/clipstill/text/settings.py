"""Settings of prompts. Light: no tensor library is loaded."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from clipstill.core.config import MANY, Config
from clipstill.text.templates import DEFAULT, sentence_template

# 16 as in Wei et al., ICLR 2025. Illustration, pattern and photorealism are theirs; the others are our choice.
_STYLES = (
    "photorealism, illustration, pattern, sketch, oil painting, watercolor, cartoon, 3D render, vintage photo, "
    "black-and-white photo, close-up, low light, overexposed, mosaic, poster, clay model"
)


class PromptSettings(Config):
    """Which images are made, and of which sentences. A strategy reads the settings that concern it."""

    strategy: str = Field(default="styles", description="Prompt strategy. See: clipstill list prompts.")
    styles: tuple[str, ...] = Field(
        default=tuple(_STYLES.split(", ")),
        min_length=1,
        description="Style words, over which the images of a class are spread. Wei et al. (ICLR 2025) have sixteen.",
    )
    templates: str | list[str] = Field(
        default="auto",
        description="Sentences around a class name, whose mean is its class vector: auto for the set that suits the "
        "teacher, the name of a set (plain, name, or a data set's such as oxford_pets), or a list. auto is bare names "
        "for embedded teachers and eight plain ImageNet sentences for CLIP.",
    )
    images_per_class: int = Field(
        default=24,
        ge=0,
        description="Synthetic images per class; 0 where unlabelled photos replace them. Many images of few steps "
        "teach more than few of many; Wei et al. make 64 on a GPU. 8 by default for a student that begins with what "
        "its teacher knows (student.start): 24 teach it no more.",
    )
    template: str = Field(
        default=DEFAULT,
        description="Sentence of the images: default for the strategy's own, the name of a template set, or a text "
        "with {class}, and {style} or {tokens} where the style and the soft tokens belong.",
    )
    pseudo_styles: int = Field(
        default=16,
        ge=1,
        le=100_000,
        description="Pseudo-words per class of the strategies contrastive and random. 16 is the number of style words.",
    )
    tokens: int = Field(
        default=4, ge=1, le=64, description="Soft tokens per prompt. CoOp has as many before a class name."
    )
    sigma: Annotated[float, Field(gt=0, le=100)] | Literal["auto"] = Field(
        default="auto",
        description="Standard deviation of the soft tokens' start; auto is that of the teacher's own token embeddings. "
        "CLIP's 0.02 is a third of what MiniLM's are.",
    )
    steps: int = Field(
        default=10,
        ge=0,
        le=MANY,
        description="Steps of Adam per batch of prompts; 0 leaves the tokens as they were drawn. 10 takes minutes for "
        "a hundred images with embedded-m; the recipe ovc suits CLIP.",
    )
    lr: float = Field(
        default=0.003,
        ge=1e-6,
        le=100,
        description="Learning rate of Adam, in units of token embeddings. 0.003 is a twentieth of sigma.",
    )
    content_weight: float = Field(
        default=1.0,
        ge=0,
        le=MANY,
        description="Weight of the term that keeps the class, in sdd and contrastive. Without it, sdd drives prompts "
        "of embedded teachers out of their class.",
    )

    @model_validator(mode="after")
    def _has_a_template(self) -> Self:
        # Only the name is checked here; which set "auto" means depends on the teacher.
        sentence_template(self.template, "{class}", suited="plain")
        return self
