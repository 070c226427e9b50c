"""``python -m lotperm`` is the command ``lotperm``."""

from lotperm.cli.app import main

main()
