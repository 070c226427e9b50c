"""The book: notebooks executed with other parameters, and the site that is built from them.

A notebook has one cell tagged ``parameters`` that assigns plain literals. `execute` writes the
values that were asked for into that cell and runs the notebook with papermill; what comes out
depends on nothing but sources, parameters and package, to the last byte. `build` executes what
changed of the notebooks that ``_toc.yml`` lists, puts the executed copies beside the prose into
``<out>/src``, and lets Jupyter Book make ``<out>/html`` of it. The repository itself stays clean.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path
from typing import Any, get_args

from filelock import FileLock

from lotperm.config.canonical import sha256_json
from lotperm.config.parameters import Profile
from lotperm.errors import LotpermError, StorageError, unknown_name
from lotperm.site.html import script_element
from lotperm.site.notebooks import Validate, checked_parameters, defaults, execute_cached
from lotperm.store.files import write_atomic
from lotperm.store.provenance import source_hash


def build(
    profile: str = "live",
    out: Path = Path("_build"),
    *,
    root: Path = Path(),
    parameters: Mapping[str, Any] | None = None,
    validate: Validate | None = None,
    progress: bool = True,
    jobs: int = 1,
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
    parameters : Mapping[str, Any] | None, optional
        Other parameters, each given to the notebooks that have one of that name.
    validate, progress : Validate | None, optional
        As in `execute`.
    jobs : int, optional
        Notebooks executed at once. Give each its share of the cores, with ``OMP_NUM_THREADS``.

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
    if profile not in get_args(Profile):
        raise unknown_name("profile", profile, get_args(Profile))
    pages = list(_pages(root))
    notebooks = [page for page in pages if page.suffix == ".ipynb"]
    wanted = {"profile": profile, **(parameters or {})}
    known = {page: defaults(root / page) for page in notebooks}
    names = {name for page in notebooks for name in known[page]} | {"profile"}
    for name in wanted:
        if name not in names:
            raise unknown_name("parameter", name, names)
    given = {
        page: {name: value for name, value in wanted.items() if name in known[page]}
        for page in notebooks
    }
    for page in notebooks:  # all of them, before the first one runs
        values = checked_parameters(root / page, given[page])
        if validate is not None:
            validate(root / page, values)
    out.mkdir(parents=True, exist_ok=True)
    with FileLock(out / ".lock"):
        sources = {page: root / page for page in (Path("_config.yml"), Path("_toc.yml"), *pages)}
        sources |= {
            path.relative_to(root): path
            for path in (root / "book").rglob("[!.]*")
            if path.is_file()
        }

        def executed(page: Path) -> Path:
            return execute_cached(root / page, profile, given[page], cwd=root, progress=progress)

        if jobs == 1:  # in this thread, where a signal ends a notebook and its kernel at once
            sources |= {page: executed(page) for page in notebooks}
        else:
            pool = ThreadPoolExecutor(jobs)
            try:
                sources |= zip(notebooks, pool.map(executed, notebooks), strict=True)
            except BaseException as error:
                # No other notebook is begun; after a signal nobody waits for those that run.
                pool.shutdown(wait=isinstance(error, Exception), cancel_futures=True)
                raise
            pool.shutdown()
        for panel in sorted((root / "book" / "panels").glob("*.html")):
            whole = out / "panels" / panel.name
            write_atomic(whole, inline_scripts(panel).encode())
            sources[Path("book", "panels", panel.name)] = whole
        _synchronize(sources, out)
        state = _state(sources)
        built = [out / "html" / page.with_suffix(".html") for page in (Path("index"), *pages)]
        if not all(page.exists() for page in built) or built_from(out) != state:
            run_sphinx(out, state)
    return built[0]


def inline_scripts(panel: Path) -> str:
    """A piece of HTML with the scripts that it names written into it, so that it needs no other
    file.

    Prose pages include these, as ``panels/<name>.html``. A script that is in the page can be read
    by the page, also from a USB stick: that is how a Web Worker is started there.

    Raises
    ------
    StorageError
        If a script that it names isn't beside it.
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


def _pages(root: Path) -> Iterator[Path]:
    """The files that ``_toc.yml`` lists, relative to `root`."""
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


def _synchronize(sources: Mapping[Path, Path], out: Path) -> None:
    """Make ``<out>/src`` hold exactly these files; those that didn't change keep their time,
    for Sphinx.
    """
    folder = out / "src"
    for path in [path for path in folder.rglob("*") if path.is_file()]:
        if path.relative_to(folder) not in sources and path.name != "conf.py":
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
    """What the site depends on: its sources, the package, whose docstrings are a page, and the
    builders.
    """
    files = {
        str(name): hashlib.sha256(path.read_bytes()).hexdigest() for name, path in sources.items()
    }
    builders = {
        name: version(name) for name in ("jupyter-book", "myst-nb", "sphinx", "sphinx-book-theme")
    }
    return sha256_json({"files": files, "source_hash": source_hash(), "builders": builders})


def built_from(out: Path) -> str | None:
    """The `_state` of the last build in `out`, if it had no warnings."""
    complete = out / ".complete"
    return complete.read_text(encoding="utf-8") if complete.exists() else None


def run_sphinx(out: Path, state: str, builder: str = "html") -> None:
    source, trees, log, complete = (
        out / "src",
        out / "doctrees",
        out / "sphinx.log",
        out / ".complete",
    )
    if not complete.exists():
        # Sphinx doesn't read unchanged pages again: their warnings would be forgotten.
        shutil.rmtree(trees, ignore_errors=True)
    complete.unlink(missing_ok=True)
    jupyter_book = [sys.executable, "-c", "from jupyter_book.cli.main import main; main()"]
    sphinx = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-n", "-b", builder]
    # Jupyter Book forgets local_extensions when it writes conf.py.
    environment = {
        **os.environ,
        "NO_COLOR": "1",
        "PYTHONPATH": str((source / "book" / "_extensions").resolve()),
    }
    for command in (
        [*jupyter_book, "config", "sphinx", str(source)],
        [*sphinx, "-d", str(trees), str(source), str(out / builder)],
    ):
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
        log.write_text(done.stdout + done.stderr, encoding="utf-8")
        if done.returncode:
            lines = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
            problems = [line for line in lines if "WARNING" in line or "ERROR" in line] or lines[
                -1:
            ]
            first = problems[0] if problems else f"exit code {done.returncode}"
            raise LotpermError(
                f"the site has {len(problems)} problem(s), all in {log}. The first: {first}"
            )
    complete.write_text(state, encoding="utf-8")
