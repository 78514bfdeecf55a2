"""Build the weights that clipstill ships, from openly licensed pictures and words.

usage: python -m tools.weights embedded-teacher --out src/clipstill/assets
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    help="Make the weights that clipstill ships.\n\nFrom openly licensed pictures and words.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
OutOption = Annotated[Path, typer.Option("--out", "-o", help="Folder for the weights and their licence ledger.")]
CacheOption = Annotated[
    Path, typer.Option("--cache", help="Folder that keeps packages, decoded pictures and features (4 GB).")
]
CACHE = Path(".cache") / "clipstill"


@app.command("embedded-teacher")
def embedded_teacher(out: OutOption, cache: CacheOption = CACHE) -> None:
    """Get the packages, train both sizes of the embedded teacher, measure, write safetensors and licences."""
    from tools.weights.embedded_teacher import build_teachers

    build_teachers(out, cache)


@app.command("embedded-generator")
def embedded_generator(out: OutOption, cache: CacheOption = CACHE) -> None:
    """Get the packages, train the embedded generator, write safetensors and licences."""
    from tools.weights.embedded_generator import build_generator

    build_generator(out, cache)


@app.command("latent-prior")
def latent_prior(
    out: OutOption,
    cache: CacheOption = CACHE,
    autoencoder: Annotated[
        str, typer.Option("--autoencoder", help="Decoder file with its encoder beside it, folder, or hub repository.")
    ] = "",
) -> None:
    """Get the packages, measure latents of photographs for the generator tiny-autoencoder, write licences."""
    from tools.weights.latent_prior import build_latent_prior

    build_latent_prior(out, cache, autoencoder)


@app.command("web-runtime")
def web_runtime(out: OutOption, cache: CacheOption = CACHE) -> None:
    """Get onnxruntime-web, compress what a bundle's page needs of it, write licences."""
    from tools.weights.web_runtime import build_web_runtime

    build_web_runtime(out, cache)


@app.command("wordnet")
def wordnet(out: OutOption, cache: CacheOption = CACHE) -> None:
    """Get the package, write the table of nouns that class names are checked by, and its licence."""
    from tools.weights.wordnet import build_wordnet

    build_wordnet(out, cache)


if __name__ == "__main__":
    app()
