"""``python -m lotperm`` is the command ``lotperm``."""

from lotperm.cli import main

main()
