"""The command ``lotperm``: its commands, and what becomes of an error.

Only this package prints. Each group of commands is a module of its own, which imports no other
group; the order here is the order in which ``lotperm --help`` lists them.
"""

from __future__ import annotations

import logging
import os
import sys
from typing import Annotated

import rich
import typer

from lotperm import __version__
from lotperm.cli import campaign, data, experiment, notebooks, plan, store, sweep, weights
from lotperm.cli.signals import Ended, stop
from lotperm.errors import (
    DeviceError,
    DivergedError,
    LotpermError,
    OutOfMemoryError,
    ParameterError,
    PreemptedError,
    StorageError,
    class_of,
)
from lotperm.parallel import distributed

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    # Errors are told by `main`, in one line.
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    help="Permute a lottery-ticket mask onto a new initialization, train it sparse, and recompute the paper: "
    "*Sparse Training from Random Initialization: Aligning Lottery Ticket Masks using Weight Symmetry* (ICML 2025).\n\n"
    "Start with `lotperm experiment --profile smoke` (seconds) or `lotperm run method` (minutes). What was computed "
    "once is loaded from the store: the folder LOTPERM_HOME, else .lotperm here.",
)
app.command()(experiment.experiment)
app.command()(notebooks.run)
app.command("book")(notebooks.build_book)
app.command()(experiment.parameters)
app.command()(plan.plan)
app.command()(weights.match)
app.command("permute")(weights.permute_file)
app.command()(weights.prune)
app.command()(weights.mask)
app.command("convert")(weights.convert_file)
app.add_typer(data.app, name="data")
app.add_typer(campaign.app, name="campaign")
app.add_typer(sweep.app, name="sweep")
app.add_typer(store.app, name="store")


@app.callback(invoke_without_command=True)
def _root(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if version:
        rich.print(__version__)
        raise typer.Exit()


def main() -> None:
    """Run the command line and end the process.

    An error becomes one line on stderr and the exit code of its class (`lotperm.errors`);
    ``--debug``, anywhere on the command line, or the variable LOTPERM_DEBUG shows the traceback.
    """
    arguments = sys.argv[1:]
    # Taken from the line itself: Click would want it before the name of the command.
    debug = "--debug" in arguments or bool(os.environ.get("LOTPERM_DEBUG"))
    logging.basicConfig(format="lotperm: %(levelname)s: %(message)s", level=logging.WARNING)
    # Of other packages only warnings are of interest.
    logging.getLogger("lotperm").setLevel(logging.INFO)
    try:
        with stop.installed():
            # Click would print errors and exit by itself; here all of them end in one way.
            code = app([a for a in arguments if a != "--debug"], standalone_mode=False)
    except Ended:
        # Without waiting for threads: the kernel of a notebook ends when its parent does.
        stop.leave()
    except Exception as error:
        # Click has shown the help by raising this. Its class is not public.
        if type(error).__name__ == "NoArgsIsHelpError":
            print(error)
            sys.exit(ParameterError.exit_code)
        known = known_error(error)
        if debug or known is None:
            raise
        # These are the same on all ranks: one line is enough.
        on_all_ranks = isinstance(known, DivergedError | ParameterError | PreemptedError)
        if distributed.rank() == 0 or not on_all_ranks:
            print(f"lotperm: error: {known}", file=sys.stderr)
        # A budget that is used up ends in the same exception, but no signal came.
        by_signal = isinstance(known, PreemptedError) and stop.asked()
        sys.exit(stop.code() if by_signal else known.exit_code)
    # Commands return nothing; an exit that is asked for has its code.
    sys.exit(code or 0)


def known_error(error: Exception) -> LotpermError | None:
    """Return an exception as one of ours, whose message says what to do.

    Returns
    -------
    LotpermError or None
        The exception itself if it is one of ours; `ParameterError` for a wrong command line;
        `OutOfMemoryError`, `DeviceError` or `StorageError` for what PyTorch and the system raise;
        None for a defect, whose traceback is wanted.
    """
    if isinstance(error, LotpermError):
        return error
    # Click's: a command or an option that doesn't exist, or a wrong value.
    if hasattr(error, "format_message"):
        message = " ".join(error.format_message().split()).rstrip(".")
        end = "" if message.endswith("?") else "."
        return ParameterError(f"{message}{end} See lotperm --help.")
    first = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
    kind = class_of(type(error).__name__, str(error))
    if kind is OutOfMemoryError:
        return OutOfMemoryError(
            f"there is too little memory: {first}. Use --members 1, or a smaller batch_size or "
            "network."
        )
    if kind is DeviceError:
        return DeviceError(
            f"the device failed: {first}. What was saved is intact: run it again, or use "
            "--device cpu."
        )
    if isinstance(error, OSError):
        return StorageError(
            f"a file can't be read or written: {first}. Nothing that was finished is lost: run "
            "it again."
        )
    return None
