"""The command line: `lotperm.cli.app` puts it together, one module for each group of commands."""

import gc

from lotperm.cli import app

__all__ = ["main"]


def main() -> None:
    """Run the command line as a program of its own, and end the process."""
    # What was imported lives as long as the process, so the collector needn't look at it, least of
    # all at the end, when it takes half a second.
    gc.freeze()
    app.main()
