"""Notebooks, executed with other parameters.

A notebook has one cell tagged ``parameters`` that assigns plain literals. `execute` writes the
wanted values into that cell and runs the notebook with papermill. The result depends on nothing
but sources, parameters and package, to the last byte; `execute_cached` runs each only once.
"""

from __future__ import annotations

import ast
import hashlib
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lotperm import errors
from lotperm.config.canonical import sha256_json
from lotperm.config.parameters import PARAMETERS
from lotperm.config.presets import FIGURES
from lotperm.errors import (
    IntegrityError,
    LotpermError,
    ParameterError,
    StorageError,
    shown,
    unknown_name,
)
from lotperm.site.cells import assignments, conform, parameters_cell, replace_values
from lotperm.store.files import home, move_aside, write_atomic
from lotperm.store.provenance import source_hash
from lotperm.studies.parameters import RUNTIME

if TYPE_CHECKING:
    from nbformat import NotebookNode

Validate = Callable[[Path, dict[str, Any]], object]
"""A check of ranges and choices, which raises `ParameterError`.

It is called with the notebook and all of its parameters, defaults included.
"""

# A notebook is read into memory whole.
MAX_NOTEBOOK_BYTES = 100_000_000

PARAMETERS_TITLE = "Parameters of this page"
"""The words on the collapsed block of a page's parameters."""

# Executed notebooks name this kernel, whatever the author's editor wrote into them.
_PYTHON = {"display_name": "Python 3", "language": "python", "name": "python3"}

MORE = "more"
"""The notebook parameter that takes all those which the parameters cell doesn't name."""

# Warnings of this package: the file and line, and the line's code below.
_OWN_WARNING = re.compile(
    r"^\S.*[/\\]lotperm[/\\].*\.py:\d+: \w*Warning: .*\n?(?:  .*\n?)?", re.MULTILINE
)


def flat(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return parameters with those inside ``more`` raised to the level of the others."""
    return {**{n: v for n, v in values.items() if n != MORE}, **values.get(MORE, {})}


def defaults(notebook: Path) -> dict[str, Any]:
    """Return the parameters of a notebook with their defaults, in the order of their cell.

    Raises
    ------
    ParameterError
        If there is no such cell, or it holds anything but assignments of plain literals.
    StorageError
        If the notebook can't be read.
    """
    return {
        name: ast.literal_eval(node)
        for name, node in assignments(_read(notebook), notebook).items()
    }


def checked_parameters(notebook: Path, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Complete the given parameters with the notebook's defaults, and check their types.

    A notebook shows only the parameters that its readers change most. If one of them is the
    dictionary ``more``, it takes every other parameter of an experiment (`lotperm parameters`), and
    on a figure's page those that say how to compute (`lotperm.studies.parameters.RUNTIME`).

    A value must have the type of its default. An int is taken for a float and becomes one, but a
    bool isn't taken for an int. A list takes items of the type that its default has, and a default
    of None takes any plain value. NaN and infinities are always refused.

    Raises
    ------
    ParameterError
        If the notebook has no such parameter (the nearest name is suggested), or a type is wrong.
    """
    known = defaults(notebook)
    of_figure = notebook.stem.partition("_")[2] in FIGURES
    others = (*PARAMETERS, *(RUNTIME if of_figure else ())) if MORE in known else ()
    given: dict[str, Any] = {}
    for name, value in parameters.items():
        if name in known:
            given[name] = value
        elif name in others:
            # A parameter that is given by its own name wins over one inside `more`.
            given[MORE] = {**known[MORE], **parameters.get(MORE, {}), **given.get(MORE, {})}
            given[MORE][name] = value
        else:
            raise unknown_name("parameter", name, dict.fromkeys((*known, *others)))
    values = {}
    for name, default in known.items():
        where = f"parameter {name!r} of {notebook.name}"
        try:
            values[name] = conform(given[name], default, where) if name in given else default
        except RecursionError:
            raise ParameterError(
                f"{where} is nested too deeply: expected, for example, {default!r}."
            ) from None
    return values


def executed_key(notebook: Path, parameters: Mapping[str, Any]) -> str:
    """Hash everything that an executed notebook depends on.

    That is its cells, all its parameters, `source_hash`, and the numbers shown beside its own: the
    files in ``book/paper`` and ``book/results`` of its repository.

    Returns
    -------
    str
        SHA-256, 64 hex digits.
    """
    values = checked_parameters(notebook, parameters)
    cells = [
        [cell.cell_type, cell.source]
        for cell in replace_values(_read(notebook), notebook, values).cells
    ]
    prose = notebook.resolve().parents[1] / "book"
    tables = {
        str(path.relative_to(prose)): hashlib.sha256(path.read_bytes()).hexdigest()
        # Sorted, as file systems list files in any order.
        for path in sorted([*prose.glob("paper/*.csv"), *prose.glob("results/**/*.json")])
    }
    return sha256_json(
        {"cells": cells, "parameters": values, "source_hash": source_hash(), "tables": tables}
    )


def execute(
    notebook: Path,
    out: Path,
    parameters: Mapping[str, Any] | None = None,
    *,
    validate: Validate | None = None,
    cwd: Path | None = None,
    progress: bool = True,
) -> Path:
    """Run a notebook with other parameters and write the executed notebook.

    Everything is checked before anything runs. Two runs give the same bytes as long as the cells
    show nothing that varies: timings, progress bars and the kernel's versions are removed, and
    cell ids are numbered. The metadata ``lotperm`` says how the file was made.

    Parameters
    ----------
    notebook : Path
        The notebook, with one cell tagged ``parameters``.
    out : Path
        The file to write, atomically; may be `notebook` itself, to renew its outputs.
    parameters : mapping, optional
        Values by name; the others keep their defaults.
    validate : Validate, optional
        A check that is called with all parameters before the run.
    cwd : Path, optional
        The folder in which the cells run, and to which a relative ``LOTPERM_HOME`` refers; by
        default the current one.
    progress : bool, optional
        Show a bar over the cells, and the cells' own stderr, on stderr.

    Returns
    -------
    Path
        `out`.

    Raises
    ------
    ParameterError
        If `checked_parameters` or `validate` refuses a value.
    LotpermError
        If a cell fails; the message has the cell and the last line of its traceback. If the cell
        raised one of `lotperm.errors`, that class is raised here too, so the exit code is kept.
        `out` isn't written.
    """
    # Imported here, as most commands run no notebook.
    import nbformat
    import papermill
    from nbclient.exceptions import DeadKernelError

    values = checked_parameters(notebook, parameters or {})
    if validate is not None:
        validate(notebook, values)
    nb = replace_values(_read(notebook), notebook, values)
    # Before the run: the files may be edited meanwhile.
    source = source_hash()
    try:
        nb = papermill.execute_notebook(
            nb,
            None,
            kernel_name=_PYTHON["name"],
            progress_bar={"desc": notebook.stem} if progress else False,
            stderr_file=sys.stderr if progress else None,
            # Its own `cwd` would change the working directory of this process, and so of other
            # threads.
            resources={"metadata": {"path": str(cwd or Path.cwd())}},
            # The kernel would warn, at its start, that it listens on local ports.
            extra_arguments=["--log-level=CRITICAL"],
        )
    except papermill.PapermillExecutionError as error:
        # The kernel gives only the name of the class.
        kind = errors.class_of(error.ename, error.evalue) or LotpermError
        message = error.evalue.strip().splitlines()[-1] if error.evalue.strip() else "no message"
        raise kind(
            f"{notebook}: cell {error.cell_index} failed: {error.ename}: {message}"
        ) from error
    except DeadKernelError as error:
        raise LotpermError(
            f"{notebook}: the Python process of the notebook died. Was there enough memory?"
        ) from error
    _tidy(nb)
    nb.metadata["lotperm"] = {
        "notebook": notebook.name,
        "parameters": values,
        "source_hash": source,
    }
    # Written only now, so a failed run leaves what was there before.
    write_atomic(out, nbformat.writes(nb).encode())
    return out


def at_smoke(notebook: Path) -> NotebookNode:
    """Read a notebook with the profile "smoke" in place of its own.

    Notebooks are committed at the profile that suits a reader who opens one; their outputs are
    compared at a profile that takes seconds.
    """
    return replace_values(_read(notebook), notebook, {**defaults(notebook), "profile": "smoke"})


def renew(notebook: Path) -> None:
    """Run a notebook at `smoke` and keep, in place, only the outputs that nbval checks.

    This keeps the committed files small and easy to review; the pictures are made when the book
    is built. The parameters stay as they are.
    """
    import nbformat

    own = parameters_cell(_read(notebook), notebook).source
    given = {"profile": "smoke"} if "profile" in defaults(notebook) else {}
    nb = _read(execute(notebook, notebook, given))
    parameters_cell(nb, notebook).source = own
    for cell in nb.cells:
        if cell.cell_type == "code" and "nbval-check-output" not in cell.metadata.get("tags", []):
            cell.outputs = []
    # The metadata says how the outputs were made, and would be out of date with the next commit.
    del nb.metadata["lotperm"]
    # Without a newline at the end, the last line would change whenever an editor adds one.
    write_atomic(notebook, f"{nbformat.writes(nb)}\n".encode())


def execute_cached(
    notebook: Path,
    profile: str,
    parameters: Mapping[str, Any] | None = None,
    *,
    validate: Validate | None = None,
    cwd: Path | None = None,
    progress: bool = True,
) -> Path:
    """Execute a notebook, unless it was executed before with the same `executed_key`.

    The executed notebooks are in ``<store>/book/<profile>/``, each beside the SHA-256 of its
    bytes. One that doesn't match is moved aside to ``*.corrupt`` and executed again. The other
    parameters are those of `execute`.

    Returns
    -------
    Path
        The executed notebook.
    """
    values = checked_parameters(notebook, parameters or {})
    if validate is not None:
        validate(notebook, values)
    out = home() / "book" / profile / f"{notebook.stem}-{executed_key(notebook, values)[:16]}.ipynb"
    digest = out.with_suffix(".sha256")
    # A cached page that was damaged is made anew rather than shown.
    if out.exists():
        if (
            digest.exists()
            and digest.read_bytes() == hashlib.sha256(out.read_bytes()).hexdigest().encode()
        ):
            return out
        move_aside(out, f"{out} is not what its checksum says")
    execute(notebook, out, values, cwd=cwd, progress=progress)
    # Last, as a page without its checksum counts as damaged.
    write_atomic(digest, hashlib.sha256(out.read_bytes()).hexdigest().encode())
    return out


def _read(notebook: Path) -> NotebookNode:
    import nbformat

    try:
        # Checked before the file is read.
        if (size := notebook.stat().st_size) > MAX_NOTEBOOK_BYTES:
            raise IntegrityError(
                f"{notebook} has {size:,} bytes; expected {MAX_NOTEBOOK_BYTES:,} at the most. Clear its outputs."
            )
        nb = nbformat.read(notebook, as_version=4)
    except OSError as error:
        raise StorageError(
            f"cannot read the notebook {notebook}: {error.strerror or error}. Check the path."
        ) from error
    except IntegrityError:
        raise
    # nbformat raises many kinds of exceptions for malformed files.
    except Exception as error:
        raise IntegrityError(
            f"{notebook} isn't a notebook: {type(error).__name__}. Restore it."
        ) from error
    kernel = nb.metadata.get("kernelspec", {})
    # A notebook may name any program as its kernel; nothing but Python is started.
    language = kernel.get("language", nb.metadata.get("language_info", {}).get("name", "python"))
    if language != "python" or not str(kernel.get("name", "python3")).startswith("python"):
        raise IntegrityError(
            f"{notebook} asks for the kernel {shown(kernel.get('name', language))}; expected python3. Nothing was run."
        )
    return nb


def _tidy(nb: NotebookNode) -> None:
    """Remove everything that differs from run to run, and collapse the parameters cell."""
    nb.metadata.pop("papermill", None)
    nb.metadata.pop("widgets", None)
    nb.metadata["kernelspec"] = dict(_PYTHON)
    nb.metadata["language_info"] = {"name": "python", "pygments_lexer": "ipython3"}
    # The first format with cell ids. They are numbers, as random ids differ from run to run.
    nb.nbformat, nb.nbformat_minor = 4, 5
    for index, cell in enumerate(nb.cells):
        cell.id = f"cell-{index:02d}"
        for volatile in ("papermill", "execution", "ExecuteTime"):
            cell.metadata.pop(volatile, None)
        if cell.cell_type == "code":
            cell.outputs = _tidy_outputs(cell.outputs)
        tags = cell.metadata.pop("tags", [])
        # On the page the cell is closed, and a click opens it.
        if "parameters" in tags:
            tags = sorted({*tags, "hide-input"})
            cell.metadata["mystnb"] = {
                "code_prompt_show": PARAMETERS_TITLE,
                "code_prompt_hide": PARAMETERS_TITLE,
            }
        if tags:
            cell.metadata["tags"] = tags


def _tidy_outputs(outputs: list[NotebookNode]) -> list[NotebookNode]:
    kept: list[NotebookNode] = []
    for output in outputs:
        if output.output_type == "stream":
            # A progress bar rewrites its line, a warning doesn't: only bars are removed.
            if output.name == "stderr":
                output.text = re.sub(r"[^\n]*\r[^\n]*\n?", "", output.text)
                # A stage warns when it is computed, not when it was in the store already.
                output.text = _OWN_WARNING.sub("", output.text)
            if not output.text.strip():
                continue
            # How a stream is cut into pieces depends on timing.
            if kept and kept[-1].output_type == "stream" and kept[-1].name == output.name:
                kept[-1].text += output.text
                continue
        elif "text/plain" in output.get("data", {}):
            # Addresses of objects differ from run to run.
            output.data["text/plain"] = re.sub(r" at 0x[0-9a-f]+>", ">", output.data["text/plain"])
        kept.append(output)
    return kept
