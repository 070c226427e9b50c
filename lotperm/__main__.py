"""``python -m lotperm`` is the command ``lotperm``."""

from lotperm.cli import main

if __name__ == "__main__":
    main()
