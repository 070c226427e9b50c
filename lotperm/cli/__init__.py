"""The command line: `lotperm.cli.app` puts it together, one module for each group of commands."""

from lotperm.cli.app import main

__all__ = ["main"]
