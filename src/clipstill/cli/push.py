"""``clipstill push``: a bundle on the Hugging Face Hub."""

from __future__ import annotations

from typing import Annotated

import typer

from clipstill.cli import options
from clipstill.cli.printing import print_result
from clipstill.core.hub import SCHEME


def push(
    bundle: options.Source,
    repository: Annotated[str, typer.Argument(metavar="USER/NAME", help="Repository; it is made if there is none.")],
    private: Annotated[bool, typer.Option("--private", help="Make a repository that only its owners see.")] = False,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Upload a bundle to the Hugging Face Hub, with its card as the page.

    A new repository is public unless --private is given. Wherever a bundle is taken, hf:USER/NAME is one then, and
    hf:USER/NAME@REVISION a certain version of it. Log in first: hf auth login

    clipstill push runs/zoo USER/zoo
    """
    from clipstill.commands.push import push as upload

    page = upload(bundle, repository, private=private)
    address = f"{SCHEME}{repository.removeprefix(SCHEME)}"
    facts = {"page": page, "use it as": f"clipstill predict {address} photo.jpg"}
    print_result({"page": page, "bundle": address}, facts, as_json)
