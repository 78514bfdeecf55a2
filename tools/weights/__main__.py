"""Build the weights that clipstill ships, from openly licensed pictures and words.

usage: python -m tools.weights embedded-teacher --out src/clipstill/assets
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Annotated

import typer

from clipstill.core.paths import user_path

app = typer.Typer(
    help="Make the weights that clipstill ships.\n\nFrom openly licensed pictures and words.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
OutOption = Annotated[
    Path,
    typer.Option("--out", "-o", parser=user_path, metavar="PATH", help="Folder for the weights and their licences."),
]
CacheOption = Annotated[
    Path,
    typer.Option(
        "--cache",
        parser=user_path,
        metavar="PATH",
        help="Folder that keeps packages, decoded pictures and features (4 GB).",
    ),
]
AutoencoderOption = Annotated[
    str, typer.Option("--autoencoder", help="Decoder file with its encoder beside it, folder, or hub repository.")
]
CACHE = Path(".cache") / "clipstill"
# Command -> function in the module of the same name, and help.
COMMANDS = {
    "embedded-teacher": (
        "build_teachers",
        "Get the packages, train both sizes of the embedded teacher, measure, write safetensors and licences.",
    ),
    "embedded-generator": (
        "build_generator",
        "Get the packages, train the embedded generator, write safetensors and licences.",
    ),
    "web-runtime": (
        "build_web_runtime",
        "Get onnxruntime-web, compress what a bundle's page needs of it, write licences.",
    ),
    "wordnet": (
        "build_wordnet",
        "Get the package, write the table of nouns that class names are checked by, and its licence.",
    ),
}


def add_command(name: str, function: str, text: str) -> None:
    """Add a command that imports its recipe when it is called."""

    @app.command(name, help=text)
    def build(out: OutOption, cache: CacheOption = CACHE) -> None:
        getattr(import_module(f"tools.weights.{name.replace('-', '_')}"), function)(out, cache)


for command, (function, text) in COMMANDS.items():
    add_command(command, function, text)


@app.command("graphs")
def graphs(out: OutOption) -> None:
    """Write the ONNX graphs of the default's networks, after torch's exporter or the embedded weights have changed."""
    from tools.weights.graphs import build_graphs

    build_graphs(out)


@app.command("fixed-texts")
def fixed_texts(out: OutOption) -> None:
    """Write the vectors of texts that every task needs, after common words or the table of nouns have changed."""
    from tools.weights.fixed_texts import build_fixed_texts

    build_fixed_texts(out)


@app.command("latent-prior")
def latent_prior(out: OutOption, cache: CacheOption = CACHE, autoencoder: AutoencoderOption = "") -> None:
    """Get the packages, measure latents of photographs for the generator tiny-autoencoder, write licences."""
    from tools.weights.latent_prior import build_latent_prior

    build_latent_prior(out, cache, autoencoder)


if __name__ == "__main__":
    app()
