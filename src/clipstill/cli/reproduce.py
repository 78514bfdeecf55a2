"""``clipstill reproduce``: published tables, with ours beside them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from clipstill.cli import options
from clipstill.cli.printing import print_json, print_table, print_text
from clipstill.cli.protocols import parse_seeds

if TYPE_CHECKING:
    from clipstill.commands.comparison import Reproduction
    from clipstill.commands.reproduce import ReproduceRequest


def reproduce(
    table: Annotated[str, typer.Argument(help="A table, or list for all of them and what they need.")],
    data: Annotated[
        list[str] | None,
        typer.Option(help="Folder that holds the data sets, or SET=FOLDER for one; may be repeated. Default: data."),
    ] = None,
    out: Annotated[Path, options.path("--out", "-o", help="Folder for the runs, the cells and the pages.")] = Path(
        "runs/reproduce"
    ),
    limit: Annotated[
        Literal["full", "small"], typer.Option(help="small: embedded parts and little work, to see that it runs.")
    ] = "full",
    sets: Annotated[str, typer.Option(help="Columns, joined by commas; * and ? are wildcards. All if left out.")] = "",
    cells: Annotated[
        str, typer.Option(help="Variants or VARIANT/COLUMN, joined by commas, likewise. All if left out.")
    ] = "",
    seeds: Annotated[
        str, typer.Option("--seeds", help="Whole numbers joined by commas; the table's own if left out.")
    ] = "",
    overrides: options.Overrides = None,
    device: options.Device = None,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Run a published table cell by cell, and write it as a page and as CSV with our values beside.

    A cell that is done is not run again; one whose photos or weights are missing is named and skipped. Several
    processes, also the ranks of torchrun, share the cells of one --out.

    clipstill reproduce list --data /data

    clipstill reproduce promptkd-base-to-novel --sets caltech101 --limit small --data /data
    """
    from clipstill.commands.reproduce import ReproduceRequest
    from clipstill.commands.reproduce import reproduce as run
    from clipstill.commands.tables import load_table

    request = ReproduceRequest(
        data=data or ["data"],
        out=out,
        small=limit == "small",
        columns=_names(sets),
        cells=_names(cells),
        seeds=parse_seeds(seeds) if seeds else (),
        overrides=options.with_flags(overrides, {"device": device}),
    )
    if table == "list":
        _print_list(request, as_json)
    else:
        _print_result(run(load_table(table), request), out, as_json)


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _print_list(request: ReproduceRequest, as_json: bool) -> None:
    """Print what each table needs, and what is missing of it here."""
    from clipstill.commands.reproduce import needs
    from clipstill.commands.tables import load_table, table_names

    found = {name: needs(load_table(name), request) for name in table_names()}
    if as_json:
        print_json(found)
        return
    for name, facts in found.items():
        print_text(f"{name}: {facts['title']}")
        rows = [("of", facts["paper"]), ("published", facts["grade"]), ("time", facts["time"])]
        missing, named = facts["missing"], (*facts["photos"], *facts["weights"])
        for kind in ("photos", "weights"):
            rows.append((f"{kind} here", ", ".join(each for each in facts[kind] if each not in missing)))
            rows.append((f"{kind} missing", ", ".join(each for each in facts[kind] if each in missing)))
        rows += [("left out", f"{each}: {reason}") for each, reason in missing.items() if each not in named]
        rows.append(("cells", f"{facts['cells']}, of which {facts['ready']} can be run here"))
        print_table(row for row in rows if row[1])
        print()
    print_text("Photos are looked for in --data DIR; --limit small needs no weights beside the packaged ones.")


def _print_result(result: Reproduction, out: Path, as_json: bool) -> None:
    page, counts = out / f"{result.table.name}.html", result.counts
    if as_json:
        facts = {"page": str(page), "comparable": result.comparable, **counts, "skipped": dict(result.skipped)}
        print_json({"table": result.table.name, **facts, "values": result.values})
        return
    if not result.comparable:
        print_text("NOT COMPARABLE with the published values: the page says what differs.\n")
    columns = ("row", "data set", "value", "published", "ours", "difference")
    measured = {(line.row, line.label) for line in result.lines if line.ours}
    shown = [value for value in result.values if (value["row"], value["data set"]) in measured]
    if shown:
        print_table([columns, *([value[name] for name in columns] for value in shown)], indent="")
    print_text(f"\n{counts['done']} of {counts['cells']} cells are done; {len(result.skipped)} cannot be run here.")
    print_text(f"page: {page}")
