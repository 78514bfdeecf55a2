"""``clipstill``: the verbs, and how they end.

A mistake of the user is one line on standard error and exit code 2; Ctrl-C is one line and 130; results go to standard
output, everything else to standard error.
"""

from __future__ import annotations

import errno
import gc
import io
import os
import sys
from collections.abc import Sequence
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

import clipstill
from clipstill.cli.doctor import doctor
from clipstill.cli.evaluate import evaluate
from clipstill.cli.export import export
from clipstill.cli.fine_tune import fine_tune
from clipstill.cli.grow import add_class, remove_class
from clipstill.cli.images import images
from clipstill.cli.ladder import ladder
from clipstill.cli.listing import list_parts
from clipstill.cli.plan import plan
from clipstill.cli.predict import predict
from clipstill.cli.printing import silence_output
from clipstill.cli.protocols import base_to_novel, transfer
from clipstill.cli.push import push
from clipstill.cli.reproduce import reproduce
from clipstill.cli.run import demo, run
from clipstill.cli.serve import serve
from clipstill.cli.settings import settings
from clipstill.cli.terminal import terminal
from clipstill.cli.ui import ui
from clipstill.cli.weights import weights_app
from clipstill.cli.zero_shot import zero_shot
from clipstill.core.errors import ClipstillError, is_out_of_memory
from clipstill.core.names import plain
from clipstill.core.progress import warn

INTERRUPTED = 130
_LONGEST_PATH = 300


class _Verb(TyperCommand):
    """A command that tells of an option given twice, of which click drops the first."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        order: list[Any] = self.make_parser(ctx).parse_args(list(args))[2]
        for option in dict.fromkeys(order):
            is_single = option.param_type_name == "option" and not (option.multiple or option.is_flag)
            if is_single and order.count(option) > 1:
                warn(f"{option.opts[0]} is given twice; the last one counts")
        return super().parse_args(ctx, args)


app = typer.Typer(
    name="clipstill",
    help="Name your classes. Get a small, fast, exportable image classifier from CLIP, with no training data.",
    no_args_is_help=True,
    add_completion=False,
    # Plain help: rich would double the time to the first line.
    rich_markup_mode=None,
)
for _verb in (
    *(run, plan, add_class, remove_class, fine_tune, zero_shot, predict, evaluate, ladder, export, serve, push, images),
    *(base_to_novel, transfer, reproduce, settings, doctor, demo, ui),
):
    app.command(cls=_Verb)(_verb)  # Named as the function, with hyphens.
app.command("list", cls=_Verb)(list_parts)
app.add_typer(weights_app, name="weights")


def _version(wanted: bool) -> None:
    if wanted:
        print(f"clipstill {clipstill.__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and leave.")
    ] = False,
) -> None:
    pass


# Built once: reading the signatures of all verbs takes longer than many a verb.
COMMAND = typer.main.get_command(app)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command, by default that of this process, and return its exit code."""
    # Imports make many objects and no garbage: looking for it at each 700 of them takes a second.
    gc.set_threshold(20_000)
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A file's name may hold what the terminal's encoding does not.
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        with terminal():
            # Not standalone: click would print its usage lines around the one that matters.
            code = COMMAND.main(arguments, prog_name="clipstill", standalone_mode=False)
        if sys.stdout is not None:  # Closed before the start (``>&-``).
            sys.stdout.flush()
        if code == INTERRUPTED:  # Typer turns Ctrl-C into this code by itself, without a word.
            raise KeyboardInterrupt
        return code if isinstance(code, int) else 0
    except KeyboardInterrupt:
        return _fail("interrupted. The same command goes on where it stopped.", INTERRUPTED)
    except (BrokenPipeError, SystemExit) as error:
        # The reader of standard output left (``clipstill list | head -1``), of which typer makes an exit with 1.
        if not isinstance(error if isinstance(error, OSError) else error.__context__, BrokenPipeError):
            raise
        silence_output()
        return 0
    except ClipstillError as error:
        return _fail(str(error), error.exit_code)
    except Exception as error:
        message = _user_error(error)
        if message is None:
            raise
        return _fail(message, ClipstillError.exit_code)


def _fail(message: str, code: int) -> int:
    # A message may quote a file's name or its content, which a terminal must not obey.
    print(f"error: {plain(' '.join(line.strip() for line in message.splitlines()))}", file=sys.stderr)
    return code


def _user_error(error: Exception) -> str | None:
    """One line for an error that is no bug of clipstill; None for other errors."""
    text = str(error)
    shown = getattr(error, "format_message", None)
    if shown is not None and "unexpected extra argument" in text:
        return f"{shown()}. An option takes one value: quote one with spaces, and give one folder, not all in it."
    if shown is not None:  # click's usage errors
        return str(shown()) or "a command is missing. All of them: clipstill --help"
    if isinstance(error, ModuleNotFoundError) and error.name and not error.name.startswith("clipstill"):
        return f"the package {error.name} is not installed, which predict and serve do without. pip install clipstill"
    full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
    # Libraries that write in compiled code wrap the system's message in errors of their own.
    if full or "No space left on device" in text:
        return "the disk is full. Free some space and run the same command again: it goes on where it stopped."
    if isinstance(error, OSError) and error.filename is not None and error.strerror is not None:
        # Whatever checks a path first: a name that is too long, a folder in place of a file, no permission.
        name = os.fsdecode(error.filename) if isinstance(error.filename, str | bytes) else str(error.filename)
        return f"{name[:_LONGEST_PATH]}: {error.strerror}. Check the path and its permissions."
    if is_out_of_memory(error):
        return (
            "the memory is not enough. Make synthesis.group_size, distillation.batch or the image sizes smaller, "
            "such as --set synthesis.group_size=16."
        )
    return None
