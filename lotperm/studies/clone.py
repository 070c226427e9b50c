"""Where the repository is: the book's prose, its notebooks and what is recorded in it."""

from __future__ import annotations

from pathlib import Path

from lotperm.errors import StorageError


def clone_folder() -> Path:
    """Return the root of a clone of lotperm's repository.

    It is the first folder that holds ``book/paper`` among the working directory, those above it,
    and the one that the package lies in, which is a clone if the package was installed from it as
    editable.

    Raises
    ------
    StorageError
        If none of them does.
    """
    for root in (Path.cwd(), *Path.cwd().parents, Path(__file__).parents[2]):
        if (root / "book" / "paper").is_dir():
            return root
    raise StorageError("there is no folder book/paper here. Run this in a clone of lotperm.")
