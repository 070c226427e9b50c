"""The book's site: notebooks executed, and pages rendered from them and the prose.

`build` executes those notebooks of ``_toc.yml`` that changed, puts the executed copies beside the
prose into ``<out>/src``, and lets Jupyter Book make ``<out>/html`` of it. The repository itself
stays clean.
"""

from __future__ import annotations

import hashlib
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock

from lotperm.config.canonical import sha256_json
from lotperm.config.parameters import PARAMETERS
from lotperm.config.profiles import DEFAULT_PROFILE
from lotperm.errors import StorageError, unknown_name
from lotperm.parallel.threads import cores_divided
from lotperm.site.html import script_element
from lotperm.site.notebooks import Validate, checked_parameters, defaults, execute_cached
from lotperm.site.sphinx import render, rendered_state
from lotperm.store.files import write_atomic
from lotperm.store.provenance import source_hash

# Folders of this name aren't sources: they come and go as the extensions are imported.
_BYTECODE = "__pycache__"

MOST_JOBS = 4
"""The largest default number of notebooks executed at once; each may take 2 GB of memory."""


def build(
    profile: str = DEFAULT_PROFILE,
    out: Path = Path("_build"),
    *,
    root: Path = Path(),
    parameters: Mapping[str, Any] | None = None,
    validate: Validate | None = None,
    progress: bool = True,
    jobs: int | None = None,
) -> Path:
    """Execute what changed and build the site, every warning an error.

    Parameters
    ----------
    profile : str, optional
        The value of each notebook's ``profile`` parameter.
    out : Path, optional
        The folder that gets ``html/`` (the site), ``src/`` (what it was built from) and
        ``sphinx.log``.
    root : Path, optional
        The folder with ``_config.yml``, ``_toc.yml``, ``book/`` and ``notebooks/``; the cells run
        in it.
    parameters : mapping, optional
        Other parameters, each given to the notebooks that have one of that name.
    validate : Validate, optional
        A check that is called with each notebook and all of its parameters, before any runs.
    progress : bool, optional
        Show the progress on stderr: of each notebook, or, if several run at once, how many are done.
    jobs : int, optional
        The number of notebooks executed at once, by default as many as there are cores, but at most
        `MOST_JOBS`. Each has its share of the cores, or ``OMP_NUM_THREADS`` if that is set.

    Returns
    -------
    Path
        The site's ``index.html``.

    Raises
    ------
    ParameterError
        If there is no such profile, no notebook has a parameter of that name, or a value is wrong.
        Nothing has run then.
    LotpermError
        If a cell failed or the build had warnings.
    """
    # By its present name, even if an old name was given.
    profile = PARAMETERS["profile"].check(profile)
    listed = list(pages(root))
    notebooks = [page for page in listed if page.suffix == ".ipynb"]
    # Every value is checked before the first notebook runs: a build takes minutes.
    given = _given(notebooks, root, profile, parameters or {}, validate)

    jobs = jobs or min(torch.get_num_threads(), MOST_JOBS)

    def executed(page: Path) -> Path:
        # Bars of several notebooks would be drawn over each other.
        bars = progress and jobs == 1
        return execute_cached(root / page, profile, given[page], cwd=root, progress=bars)

    out.mkdir(parents=True, exist_ok=True)
    # Two builds, or a build and a PDF, would mix their files in one folder.
    with FileLock(out / ".lock"):
        sources = {page: root / page for page in (Path("_config.yml"), Path("_toc.yml"), *listed)}
        sources |= {
            path.relative_to(root): path
            for path in (root / "book").rglob("[!.]*")
            if path.is_file() and path.parent.name != _BYTECODE
        }
        # Executed notebooks and whole panels take the place of their sources.
        sources |= _execute_all(notebooks, executed, jobs, progress)
        sources |= _whole_panels(root, out)
        _synchronize(sources, out)
        state = _state(sources)
        # Besides the listed pages, Jupyter Book makes index.html, which leads to the first of them.
        built = [out / "html" / page.with_suffix(".html") for page in (Path("index"), *listed)]
        if not all(page.exists() for page in built) or rendered_state(out) != state:
            render(out, state)
    return built[0]


def pages(root: Path) -> Iterator[Path]:
    """Yield the files that ``_toc.yml`` lists, relative to `root`.

    Raises
    ------
    StorageError
        If there is no table of contents, or it lists a file that doesn't exist.
    """
    from sphinx_external_toc.parsing import parse_toc_yaml

    toc = root / "_toc.yml"
    if not toc.exists():
        raise StorageError(
            f"there is no {toc}: the book is built in the repository's root. Go there."
        )
    for name in parse_toc_yaml(toc):
        found = [
            page for page in (Path(f"{name}.md"), Path(f"{name}.ipynb")) if (root / page).is_file()
        ]
        if not found:
            raise StorageError(
                f"{toc} lists {name!r}: there is no such file. Add it or take the line out."
            )
        yield found[0]


def inline_scripts(panel: Path) -> str:
    """Read a piece of HTML and put the scripts that it names inside it.

    Prose pages include such a piece as ``panels/<name>.html``, and it needs no other file. A script
    inside the page can also be read by the page, even from a USB stick: that is how a Web Worker is
    started there.

    Raises
    ------
    StorageError
        If a script that the HTML names isn't beside it.
    """

    def inlined(match: re.Match[str]) -> str:
        try:
            text = (panel.parent / match["name"]).read_text(encoding="utf-8")
        except OSError as error:
            raise StorageError(
                f"{panel} names {match['name']}: {error.strerror or error}."
            ) from error
        return script_element(text, match["attributes"])

    pattern = r'<script(?P<attributes>[^>]*?) src="(?P<name>[^"]+)"></script>'
    return re.sub(pattern, inlined, panel.read_text(encoding="utf-8"))


def _given(
    notebooks: Sequence[Path],
    root: Path,
    profile: str,
    parameters: Mapping[str, Any],
    validate: Validate | None,
) -> dict[Path, dict[str, Any]]:
    """Share out the parameters among the notebooks that have them, all values checked."""
    wanted = {"profile": profile, **parameters}
    known = {page: defaults(root / page) for page in notebooks}
    # A notebook takes the parameters that it has; a name that none has is a mistake.
    names = {"profile"}.union(*known.values())
    for name in wanted:
        if name not in names:
            raise unknown_name("parameter", name, names)
    given = {
        page: {name: value for name, value in wanted.items() if name in known[page]}
        for page in notebooks
    }
    for page in notebooks:
        values = checked_parameters(root / page, given[page])
        if validate is not None:
            validate(root / page, values)
    return given


def _execute_all(
    notebooks: Sequence[Path], executed: Callable[[Path], Path], jobs: int, progress: bool
) -> dict[Path, Path]:
    """Execute several notebooks at once, and return the executed copy of each."""
    # Run in this thread, where a signal ends a notebook and its kernel at once.
    if jobs == 1:
        return {page: executed(page) for page in notebooks}
    # Imported here, as most commands build no book.
    from tqdm import tqdm

    # Threads will do: each waits for a kernel, which is a process of its own.
    pool = ThreadPoolExecutor(jobs)
    copies = {}
    bar = tqdm(total=len(notebooks), desc="notebooks", unit="notebook", disable=not progress)
    with cores_divided(jobs), bar:
        try:
            # The last chapters compute most. Begun first, they leave no core idle in the end.
            begun = {pool.submit(executed, page): page for page in reversed(notebooks)}
            for done in as_completed(begun):
                copies[begun[done]] = done.result()
                bar.set_postfix_str(begun[done].stem)
                bar.update()
        except BaseException as error:
            # No other notebook is begun, and after a signal nobody waits for those that run.
            pool.shutdown(wait=isinstance(error, Exception), cancel_futures=True)
            raise
        pool.shutdown()
    return {page: copies[page] for page in notebooks}


def _whole_panels(root: Path, out: Path) -> dict[Path, Path]:
    """Write the panels with their scripts inside, and return the copy of each."""
    copies = {}
    for panel in sorted((root / "book" / "panels").glob("*.html")):
        whole = out / "panels" / panel.name
        write_atomic(whole, inline_scripts(panel).encode())
        copies[panel.relative_to(root)] = whole
    return copies


def _synchronize(sources: Mapping[Path, Path], out: Path) -> None:
    """Make ``<out>/src`` hold exactly these files.

    Files that didn't change keep their time, so Sphinx doesn't read them again.
    """
    folder = out / "src"
    for path in [path for path in folder.rglob("*") if path.is_file()]:
        # Jupyter Book writes conf.py there, and Python the bytecode of the extensions.
        if path.name == "conf.py" or path.parent.name == _BYTECODE:
            continue
        if path.relative_to(folder) not in sources:
            path.unlink()
            # Sphinx doesn't remove pages whose source is gone.
            shutil.rmtree(out / "html", ignore_errors=True)
            shutil.rmtree(out / "doctrees", ignore_errors=True)
    for relative, path in sources.items():
        target, data = folder / relative, path.read_bytes()
        if not target.exists() or target.read_bytes() != data:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(data)


def _state(sources: Mapping[Path, Path]) -> str:
    """Hash everything that the site depends on: sources, package, and the programs that build it.

    The package counts because its docstrings are a page.
    """
    files = {
        str(name): hashlib.sha256(path.read_bytes()).hexdigest() for name, path in sources.items()
    }
    # Another version may render the same sources otherwise.
    builders = {
        name: version(name) for name in ("jupyter-book", "myst-nb", "sphinx", "sphinx-book-theme")
    }
    return sha256_json({"files": files, "source_hash": source_hash(), "builders": builders})
