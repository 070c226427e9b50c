"""``lotperm run`` and ``lotperm book``: the notebooks, executed, and the site made of them."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import rich
import typer

from lotperm.cli.options import ParameterOption, ProfileOption, parse_pairs, resolve_device
from lotperm.cli.signals import stop
from lotperm.config.experiment import Experiment
from lotperm.config.parameters import PARAMETERS
from lotperm.config.presets import FIGURES
from lotperm.config.profiles import DEFAULT_PROFILE
from lotperm.errors import ParameterError, StorageError, unknown_name
from lotperm.site import build, notebooks
from lotperm.site import epub as books
from lotperm.site import pdf as printing
from lotperm.site.notebooks import flat
from lotperm.store.files import home
from lotperm.studies.clone import clone_folder
from lotperm.studies.parameters import page_parameters


def run(
    notebook: Annotated[
        str,
        typer.Argument(help="A notebook of this book by name or number (method, 04), or a path."),
    ],
    parameter: ParameterOption = None,
    profile: ProfileOption = DEFAULT_PROFILE,
    out: Annotated[Path, typer.Option(help="Folder for the executed notebook.")] = Path("runs"),
) -> None:
    """Execute a notebook with your parameters, and write it to a folder."""
    path = find_notebook(notebook)
    values = {"profile": profile, **parse_pairs(parameter)}
    # A notebook takes only the device itself, and names it in the command that repeats its page.
    if "device" in values:
        values["device"] = resolve_device(values["device"])
    with stop.children():
        # The cells run in a kernel, a process of its own, which has to end with this one.
        target = notebooks.execute(path, out / path.name, values, validate=validate)
    rich.print(f"Wrote {target}")


def build_book(
    profile: ProfileOption = DEFAULT_PROFILE,
    out: Annotated[Path, typer.Option(help="Folder of the site.")] = Path("_build"),
    pdf: Annotated[
        bool, typer.Option("--pdf", help="Also print the book, with Chromium or Chrome.")
    ] = False,
    epub: Annotated[bool, typer.Option("--epub", help="Also make an EPUB.")] = False,
    jobs: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Notebooks executed at once, each with its share of the cores or OMP_NUM_THREADS; "
            f"default: the number of cores, at most {build.MOST_JOBS}.",
        ),
    ] = None,
) -> None:
    """Execute the notebooks that changed and build the site; every warning is an error."""
    # In the root of a clone all paths stay relative, also in what is printed.
    here = Path("_toc.yml").exists()
    root = Path() if here else clone_folder()
    # The build copies all of book/ into its folder, and would find its own output there.
    if out.absolute().is_relative_to(root.absolute() / "book"):
        raise ParameterError(
            f"--out is {out}, inside the book's sources in {root / 'book'}; choose another folder."
        )
    with stop.children(), contextlib.nullcontext() if here else _store_of_this_folder():
        index = build.build(profile, out, root=root, validate=validate, jobs=jobs)
        rich.print(f"Built {index}")
        if pdf:
            rich.print(f"Printed {printing.pdf(out)}")
        if epub:
            rich.print(f"Made {books.epub(out)}")


@contextlib.contextmanager
def _store_of_this_folder() -> Iterator[None]:
    """Let the cells use the store of the working directory, also where they run in the clone.

    Without LOTPERM_HOME the store is ``.lotperm`` in the working directory, and that of a
    notebook's process is the clone.
    """
    before = os.environ.get("LOTPERM_HOME")
    os.environ["LOTPERM_HOME"] = str(home().absolute())
    try:
        yield
    finally:
        if before is None:
            del os.environ["LOTPERM_HOME"]
        else:
            os.environ["LOTPERM_HOME"] = before


def validate(notebook: Path, values: Mapping[str, Any]) -> None:
    """Check the parameters of a notebook before it runs.

    Those of an experiment are checked together with the defaults that they will have there: a
    notebook that is named for a figure (``05_resnet20_cifar10``) has that figure's.

    Raises
    ------
    ParameterError
        For the first value that makes no sense.
    """
    given = flat(values)
    figure = notebook.stem.partition("_")[2]
    # A figure's page may have other defaults than the profile, and options of its own.
    if figure in FIGURES:
        page_parameters(figure, given)
    else:
        Experiment.from_parameters(**{n: v for n, v in given.items() if n in PARAMETERS})
    if "device" in given:
        resolve_device(given["device"])


def find_notebook(name: str) -> Path:
    """Return the path of a notebook.

    Parameters
    ----------
    name : str
        A path that ends in ``.ipynb``, or a notebook of the book by its number (``04``), title
        (``method``) or both (``04_method``): in the folder ``notebooks`` here, or else in that of
        the clone (`lotperm.studies.clone.clone_folder`).

    Raises
    ------
    StorageError
        If there is no such file, or no clone with the book's notebooks.
    ParameterError
        If the book has no notebook of that name.
    """
    if name.endswith(".ipynb"):
        if Path(name).is_file():
            return Path(name)
        raise StorageError(f"there is no notebook {name}.")
    found = _notebooks(Path())
    with contextlib.suppress(StorageError):
        # A notebook here comes before the clone's of the same name.
        found = found | {n: p for n, p in _notebooks(clone_folder()).items() if n not in found}
    if not found:
        raise StorageError("there is no folder notebooks here. Run this in a clone of lotperm.")
    for stem, path in found.items():
        number, _, title = stem.partition("_")
        if name in (stem, number, title):
            return path
    raise unknown_name("notebook", name, [stem.partition("_")[2] for stem in found])


def _notebooks(root: Path) -> dict[str, Path]:
    """Return the notebooks of a folder by the names of their files, without the suffix."""
    return {path.stem: path for path in sorted((root / "notebooks").glob("*.ipynb"))}
