"""The cell of a notebook that is tagged ``parameters``: its assignments, read and rewritten."""

from __future__ import annotations

import ast
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lotperm.errors import ParameterError, shown

if TYPE_CHECKING:
    from nbformat import NotebookNode


def parameters_cell(nb: NotebookNode, notebook: Path) -> NotebookNode:
    """Return the one cell that is tagged ``parameters``."""
    cells = [cell for cell in nb.cells if "parameters" in cell.metadata.get("tags", ())]
    if len(cells) != 1:
        raise ParameterError(
            f"{notebook} has {len(cells)} cells tagged 'parameters': expected one. Tag its first cell."
        )
    return cells[0]


def assignments(nb: NotebookNode, notebook: Path) -> dict[str, ast.expr]:
    """Return the expression that the parameters cell assigns to each name, in its order.

    Parameters
    ----------
    nb : NotebookNode
        The notebook.
    notebook : Path
        The file that it was read from, for error messages.

    Raises
    ------
    ParameterError
        If there isn't exactly one such cell, or it holds anything but assignments of plain
        literals.
    """
    found: dict[str, ast.expr] = {}
    try:
        # ast.parse raises each of these for invalid text, the last two for deep nesting.
        body = ast.parse(parameters_cell(nb, notebook).source).body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise ParameterError(
            f"the parameters cell of {notebook} isn't valid Python: {shown(error)}. Fix it."
        ) from error
    # The cell is read, never run: values are checked before a kernel starts.
    for node in body:
        # Nothing but a literal that is assigned to one name can be replaced by a value.
        match node:
            case ast.Assign(targets=[ast.Name(id=name)], value=ast.expr() as value):
                pass
            case ast.AnnAssign(target=ast.Name(id=name), value=ast.expr() as value):
                pass
            case _:
                raise ParameterError(
                    f"{notebook}: line {node.lineno} of the parameters cell isn't a plain "
                    "assignment."
                )
        try:
            ast.literal_eval(value)
        except ValueError as error:
            raise ParameterError(
                f"{notebook}: the default of {name!r} isn't a plain literal. Write a value."
            ) from error
        found[name] = value
    return found


def replace_values(nb: NotebookNode, notebook: Path, values: Mapping[str, Any]) -> NotebookNode:
    """Write values into the parameters cell, in place, and return the notebook.

    Comments stay, so the page shows one block. Only values that differ are rewritten.
    """
    cell = parameters_cell(nb, notebook)
    # In bytes, as ast counts columns in them.
    lines = [line.encode() for line in cell.source.splitlines(keepends=True)]
    # From the last to the first: a replaced value shifts only the text after it.
    for name, node in reversed(assignments(nb, notebook).items()):
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


def conform(value: Any, default: Any, where: str) -> Any:
    """Convert a value to the type of its default, or refuse it.

    Parameters
    ----------
    value : object
        The value that was given.
    default : object
        The value in the notebook, whose type is expected; None takes any plain value.
    where : str
        The words that an error message starts with.

    Raises
    ------
    ParameterError
        If the type differs, or a number isn't finite.
    """
    if isinstance(value, float) and not math.isfinite(value):
        raise ParameterError(f"{where} is {value}: expected a finite number, such as {default!r}.")
    if isinstance(default, list | tuple) and isinstance(value, list | tuple):
        # A default of one type takes items of this type; one that is empty or mixed takes any.
        kinds = {type(item) for item in default}
        pattern = default[0] if len(kinds) == 1 else None
        return [conform(item, pattern, f"item {i} of {where}") for i, item in enumerate(value)]
    # Keys are text, since they name parameters; each value may be of any plain type.
    if isinstance(value, dict) and isinstance(default, dict | None):
        return {
            conform(key, "", f"a key of {where}"): conform(item, None, where)
            for key, item in value.items()
        }
    if default is None and isinstance(value, list | tuple):
        return [conform(item, None, where) for item in value]
    # By exact type, as True is an int as well.
    if type(default) is float and type(value) is int:
        return float(value)
    plain = (bool, int, float, str, type(None)) if default is None else (type(default),)
    if type(value) not in plain:
        expected = " or ".join(kind.__name__ for kind in plain)
        raise ParameterError(
            f"{where} is {shown(value)} ({type(value).__name__}): expected {expected}, such as {default!r}."
        )
    return value
