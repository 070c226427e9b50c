"""The command line."""

from lotperm.cli.app import main

__all__ = ["main"]
