"""``clipstill weights``: take checkpoints from elsewhere into the weights store, and list what is there."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from clipstill.cli import options
from clipstill.cli.printing import print_json, print_result, print_table
from clipstill.core.names import plain
from clipstill.core.paths import user_path

weights_app = typer.Typer(
    help="Import weights of VQGANs, and list them.\n\nThey lie in the folder that CLIPSTILL_WEIGHTS names, or in the "
    "cache (~/.cache/clipstill/weights).",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@weights_app.command("import")
def import_weights(
    file: Annotated[
        Path,
        typer.Argument(parser=user_path, metavar="FILE", help="A Lightning checkpoint (.ckpt, .pt) or .safetensors."),
    ],
    name: Annotated[str | None, typer.Option(help="What to call it; after its architecture if left out.")] = None,
    licence: Annotated[
        str | None, typer.Option(metavar="TEXT", help="Of the weights, such as MIT; else unknown.")
    ] = None,
    source: Annotated[
        str | None, typer.Option(metavar="TEXT", help="Where the file came from: an address or a name.")
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Import a VQGAN checkpoint.

    Takes the decoder and the codebook of a checkpoint of taming-transformers or latent-diffusion; nothing in the file
    is run. Sizes are read from its tensors.

    \b
    Examples:
      clipstill weights import vqgan_imagenet_f16_16384.ckpt --source CompVis/taming-transformers
      clipstill weights import model.ckpt --name photos --licence CC-BY-4.0 --source "trained by us"
      clipstill run --classes dog,cat --generator vqgan:photos
    """  # noqa: D301 - click keeps the lines after \b as they are
    from clipstill.generators.vqgan_checkpoint import import_vqgan, possible_publisher

    stored = import_vqgan(file, name, licence, source)
    imported, sizes = stored.facts, stored.facts.architecture
    known = possible_publisher(stored)
    if known is not None:
        print(
            f"note: {known.repository} ({known.licence}, trained on {known.trained_on}) publishes weights of this "
            f"architecture. If the file is theirs, import it again with --source {known.repository}",
            file=sys.stderr,
        )
    facts = {
        "name": stored.name,
        "use it as": f"--generator {imported.kind}:{stored.name}",
        "folder": str(stored.folder),
        "codes": f"{sizes['codes']} of {sizes['code_channels']} channels",
        "licence": imported.licence,
        "source": imported.source,
        "trained on": imported.trained_on,
        "sha256": imported.sha256,
    }
    print_result(stored.to_json(), facts, as_json)


@weights_app.command("list")
def list_weights(as_json: options.Json = False) -> None:
    """List what was imported.

    \b
    Example:
      clipstill weights list --json
    """  # noqa: D301
    from clipstill.core.weights_store import stored_weights, weights_folder

    entries = stored_weights()
    if as_json:
        print_json([entry.to_json() for entry in entries])
    elif entries:
        print_table(
            (each.name, f"{each.facts.kind}  licence: {each.facts.licence}  from: {each.facts.source}")
            for each in entries
        )
    else:
        print(
            f"nothing is imported into {plain(weights_folder())}. See: clipstill weights import --help", file=sys.stderr
        )
