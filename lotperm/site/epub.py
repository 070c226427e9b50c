"""The book as an EPUB."""

from __future__ import annotations

import shutil
from pathlib import Path

from filelock import FileLock

from lotperm.errors import StorageError
from lotperm.site.sphinx import render, rendered_state


def epub(out: Path = Path("_build")) -> Path:
    """Make ``<out>/book.epub`` of the book that `build` has built; it holds no scripts.

    Parameters
    ----------
    out : Path, optional
        The folder that was given to `build`.

    Returns
    -------
    Path
        The EPUB.

    Raises
    ------
    StorageError
        If the book isn't built.
    LotpermError
        If the build had warnings.
    """
    state = rendered_state(out)
    if state is None:
        raise StorageError(
            f"there is no finished book in {out}. Build it first: lotperm book --out {out}"
        )
    with FileLock(out / ".lock"):
        render(out, state, "epub")
        (made,) = (out / "epub").glob("*.epub")
        target = out / "book.epub"
        shutil.copy(made, target)
    return target
