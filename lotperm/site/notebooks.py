"""Notebooks with other parameters: checked, executed, tidied and cached."""

from __future__ import annotations

import ast
import hashlib
import math
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lotperm import errors
from lotperm.config.canonical import sha256_json
from lotperm.errors import (
    IntegrityError,
    LotpermError,
    ParameterError,
    StorageError,
    shown,
    unknown_name,
)
from lotperm.store.files import home, move_aside, write_atomic
from lotperm.store.provenance import source_hash

if TYPE_CHECKING:
    from nbformat import NotebookNode

Validate = Callable[[Path, dict[str, Any]], object]

"""Checks values (ranges, choices) and raises `ParameterError`; is given the notebook and all of
its parameters, defaults included.
"""


MAX_NOTEBOOK_BYTES = 100_000_000


_PYTHON = {"display_name": "Python 3", "language": "python", "name": "python3"}


_PARAMETERS_TITLE = "Parameters of this page"


def defaults(notebook: Path) -> dict[str, Any]:
    """The parameters of a notebook and their default values, in the order of its parameters cell.

    Raises
    ------
    ParameterError
        If there is no such cell, or it holds anything but assignments of plain literals.
    StorageError
        If the notebook can't be read.
    """
    return {
        name: ast.literal_eval(node)
        for name, node in _assignments(_read(notebook), notebook).items()
    }


def checked_parameters(notebook: Path, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """All parameters of a notebook: those given, checked against the defaults, and the defaults of
    the others.

    A default says which type is taken: an int goes where a float is expected (and becomes one), a
    bool is no int, a list takes items of the type its default has, and where the default is None
    any plain value is taken. NaN and infinities never are.

    Raises
    ------
    ParameterError
        For a name that the notebook doesn't have (with the nearest one that it has) or a wrong
        type.
    """
    known = defaults(notebook)
    for name in parameters:
        if name not in known:
            raise unknown_name("parameter", name, known)
    values = {}
    for name, default in known.items():
        where = f"parameter {name!r} of {notebook.name}"
        try:
            values[name] = (
                _conform(parameters[name], default, where) if name in parameters else default
            )
        except RecursionError:
            raise ParameterError(
                f"{where} is nested too deeply: expected, for example, {default!r}."
            ) from None
    return values


def _conform(value: Any, default: Any, where: str) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        raise ParameterError(f"{where} is {value}: expected a finite number, such as {default!r}.")
    if isinstance(default, list | tuple) and isinstance(value, list | tuple):
        kinds = {type(item) for item in default}
        pattern = default[0] if len(kinds) == 1 else None
        return [_conform(item, pattern, f"item {i} of {where}") for i, item in enumerate(value)]
    if isinstance(value, dict) and isinstance(default, dict | None):
        return {
            _conform(key, "", f"a key of {where}"): _conform(item, None, where)
            for key, item in value.items()
        }
    if default is None and isinstance(value, list | tuple):
        return [_conform(item, None, where) for item in value]
    if type(default) is float and type(value) is int:
        return float(value)
    plain = (bool, int, float, str, type(None)) if default is None else (type(default),)
    if type(value) not in plain:
        expected = " or ".join(kind.__name__ for kind in plain)
        raise ParameterError(
            f"{where} is {shown(value)} ({type(value).__name__}): expected {expected}, such as {default!r}."
        )
    return value


def _assignments(nb: NotebookNode, notebook: Path) -> dict[str, ast.expr]:
    """Parameter name -> the expression that the parameters cell assigns to it."""
    found: dict[str, ast.expr] = {}
    try:
        body = ast.parse(_parameters_cell(nb, notebook).source).body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise ParameterError(
            f"the parameters cell of {notebook} is no Python: {shown(error)}. Mend it."
        ) from error
    for node in body:
        match node:
            case ast.Assign(targets=[ast.Name(id=name)], value=ast.expr() as value):
                pass
            case ast.AnnAssign(target=ast.Name(id=name), value=ast.expr() as value):
                pass
            case _:
                raise ParameterError(
                    f"{notebook}: line {node.lineno} of the parameters cell is no plain assignment."
                )
        try:
            ast.literal_eval(value)
        except ValueError as error:
            raise ParameterError(
                f"{notebook}: the default of {name!r} is no plain literal. Write a value."
            ) from error
        found[name] = value
    return found


def _parameters_cell(nb: NotebookNode, notebook: Path) -> NotebookNode:
    cells = [cell for cell in nb.cells if "parameters" in cell.metadata.get("tags", ())]
    if len(cells) != 1:
        raise ParameterError(
            f"{notebook} has {len(cells)} cells tagged 'parameters': expected one. Tag its first cell."
        )
    return cells[0]


def _with_parameters(nb: NotebookNode, notebook: Path, values: Mapping[str, Any]) -> NotebookNode:
    """Write the values into the parameters cell, comments kept, so that the page shows one
    block.
    """
    cell = _parameters_cell(nb, notebook)
    lines = [
        line.encode() for line in cell.source.splitlines(keepends=True)
    ]  # ast counts columns in bytes
    for name, node in reversed(_assignments(nb, notebook).items()):
        if values[name] == ast.literal_eval(node):
            continue
        first, last = node.lineno - 1, (node.end_lineno or node.lineno) - 1
        text = (
            lines[first][: node.col_offset]
            + repr(values[name]).encode()
            + lines[last][node.end_col_offset :]
        )
        lines[first : last + 1] = [text]
    cell.source = b"".join(lines).decode()
    return nb


def executed_key(notebook: Path, parameters: Mapping[str, Any]) -> str:
    """What an executed notebook depends on, as one sha256.

    These are its cells, all its parameters, `source_hash`, and the numbers that stand beside its
    own: the files in ``book/paper`` and ``book/results`` of its repository.
    """
    values = checked_parameters(notebook, parameters)
    cells = [
        [cell.cell_type, cell.source]
        for cell in _with_parameters(_read(notebook), notebook, values).cells
    ]
    prose = notebook.resolve().parents[1] / "book"
    tables = {
        str(path.relative_to(prose)): hashlib.sha256(path.read_bytes()).hexdigest()
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
    show nothing that varies: timings, cell ids and progress bars (stderr) are taken out here, and
    so are the versions of the kernel. The metadata ``lotperm`` says how the file was made.

    Parameters
    ----------
    notebook : Path
        The notebook, with one cell tagged ``parameters``.
    out : Path
        The file to write, atomically; may be `notebook` itself, to renew its outputs.
    parameters : Mapping[str, Any] | None, optional
        Name -> value, for those that aren't to stay at their default.
    validate : Validate | None, optional
        Called with all parameters before the run.
    cwd : Path | None, optional
        The folder in which the cells run, where a relative ``LOTPERM_HOME`` counts from; the
        present one by default.
    progress : bool, optional
        Show a bar over the cells, and what the cells write to stderr, on stderr.

    Returns
    -------
    Path
        `out`.

    Raises
    ------
    ParameterError
        See `checked_parameters` and `validate`.
    LotpermError
        If a cell fails, with the cell and the last line of its traceback. If the cell raised one
        of `lotperm.errors`, that class is raised here too, so the exit code is kept. `out` isn't
        written.
    """
    import nbformat
    import papermill
    from nbclient.exceptions import DeadKernelError

    values = checked_parameters(notebook, parameters or {})
    if validate is not None:
        validate(notebook, values)
    nb = _with_parameters(_read(notebook), notebook, values)
    source = source_hash()  # of what will run: the files may be edited meanwhile
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
            extra_arguments=[
                "--log-level=CRITICAL"
            ],  # it warns when it starts, that it listens on local ports
        )
    except papermill.PapermillExecutionError as error:
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
    write_atomic(out, nbformat.writes(nb).encode())
    return out


def renew(notebook: Path) -> None:
    """Run a notebook at its own defaults and keep, in place, only the outputs that nbval checks.

    So what stands in git is small and can be reviewed; the pictures are made when the book is
    built.
    """
    import nbformat

    nb = _read(execute(notebook, notebook))
    for cell in nb.cells:
        if cell.cell_type == "code" and "nbval-check-output" not in cell.metadata.get("tags", []):
            cell.outputs = []
    del nb.metadata[
        "lotperm"
    ]  # says how the outputs were made, which will be out of date with the next commit
    # A last line without an end would be a line of the diff whenever an editor adds it.
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
    """`execute`, or nothing if this notebook was executed before with the same key
    (`executed_key`).

    The executed notebooks stand in ``<store>/book/<profile>/``, each beside the sha256 of its
    bytes. One that doesn't match is moved aside to ``*.corrupt`` and executed again. Parameters as
    in `execute`.

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
    if out.exists():
        if (
            digest.exists()
            and digest.read_bytes() == hashlib.sha256(out.read_bytes()).hexdigest().encode()
        ):
            return out
        move_aside(out, f"{out} is not what its checksum says")
    execute(notebook, out, values, cwd=cwd, progress=progress)
    write_atomic(digest, hashlib.sha256(out.read_bytes()).hexdigest().encode())
    return out


def _read(notebook: Path) -> NotebookNode:
    import nbformat

    try:
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
    except Exception as error:  # whatever the reader of notebooks stumbles over
        raise IntegrityError(
            f"{notebook} is no notebook: {type(error).__name__}. Restore it."
        ) from error
    kernel = nb.metadata.get("kernelspec", {})
    language = kernel.get("language", nb.metadata.get("language_info", {}).get("name", "python"))
    if language != "python" or not str(kernel.get("name", "python3")).startswith("python"):
        raise IntegrityError(
            f"{notebook} asks for the kernel {shown(kernel.get('name', language))}; expected python3. Nothing was run."
        )
    return nb


def _tidy(nb: NotebookNode) -> None:
    """Remove what differs from run to run, and mark the parameters cell to be shown collapsed."""
    nb.metadata.pop("papermill", None)
    nb.metadata.pop("widgets", None)
    nb.metadata["kernelspec"] = dict(_PYTHON)
    nb.metadata["language_info"] = {"name": "python", "pygments_lexer": "ipython3"}
    nb.nbformat, nb.nbformat_minor = 4, 5
    for index, cell in enumerate(nb.cells):
        cell.id = f"cell-{index:02d}"
        for volatile in ("papermill", "execution", "ExecuteTime"):
            cell.metadata.pop(volatile, None)
        if cell.cell_type == "code":
            cell.outputs = _tidy_outputs(cell.outputs)
        tags = cell.metadata.pop("tags", [])
        if "parameters" in tags:
            tags = sorted({*tags, "hide-input"})
            cell.metadata["mystnb"] = {
                "code_prompt_show": _PARAMETERS_TITLE,
                "code_prompt_hide": _PARAMETERS_TITLE,
            }
        if tags:
            cell.metadata["tags"] = tags


def _tidy_outputs(outputs: list[NotebookNode]) -> list[NotebookNode]:
    kept: list[NotebookNode] = []
    for output in outputs:
        if output.output_type == "stream":
            if output.name == "stderr":  # a progress bar rewrites its line; a warning doesn't
                output.text = re.sub(r"[^\n]*\r[^\n]*\n?", "", output.text)
            if not output.text.strip():
                continue
            if kept and kept[-1].output_type == "stream" and kept[-1].name == output.name:
                kept[-1].text += output.text
                continue
        elif "text/plain" in output.get("data", {}):
            output.data["text/plain"] = re.sub(r" at 0x[0-9a-f]+>", ">", output.data["text/plain"])
        kept.append(output)
    return kept
