"""Finding the repository, which holds the book's prose, its notebooks and the records."""

from __future__ import annotations

from pathlib import Path

from lotperm.errors import StorageError


def clone_folder() -> Path:
    """Find the root of a clone of lotperm's repository.

    The working directory and the folders above it are tried first, then the folder that holds the
    package, which is a clone if the package was installed from it as editable. The first one with
    ``book/paper`` in it is taken.

    Raises
    ------
    StorageError
        If none of them is a clone.
    """
    # The working directory comes before the installed package: someone with two clones means the
    # one in which they are working. Only a clone has `book/paper`; a wheel has no book.
    for root in (Path.cwd(), *Path.cwd().parents, Path(__file__).parents[2]):
        if (root / "book" / "paper").is_dir():
            return root
    raise StorageError("there is no folder book/paper here. Run this in a clone of lotperm.")
