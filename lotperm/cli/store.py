"""``lotperm store``: what is computed, and how it travels to another machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import rich
import typer
from rich.table import Table

from lotperm.carry.needed import needed
from lotperm.carry.packing import everything, lacking, pack
from lotperm.carry.unpacking import unpack
from lotperm.cli.output import duration, say
from lotperm.cluster.campaign import Campaign
from lotperm.errors import IntegrityError, StorageError
from lotperm.store.stages import Store

_MIB = 2**20

app = typer.Typer(
    no_args_is_help=True, help="What is computed, and how it travels to another machine."
)


@app.command("list")
def list_stages() -> None:
    """Show the finished stages, those in progress, and what was damaged and moved aside."""
    store = Store.default()
    table = Table(title=f"Store {store.root}")
    for column in ("stage", "state", "MiB", "took"):
        table.add_column(column, overflow="fold")
    total = 0
    for stage in store.stages():
        size = sum(file["bytes"] for file in stage.files.values())
        state = f"done, without {len(stage.left_out)} files" if stage.left_out else "done"
        took = duration(stage.meta["seconds"])
        table.add_row(stage.path.name, state, f"{size / _MIB:.1f}", took)
        total += size
    for folder in sorted((store.root / "work").glob("*")):
        size = sum(path.stat().st_size for path in folder.glob("checkpoint-*"))
        if size:
            table.add_row(folder.name, "in progress", f"{size / _MIB:.1f}", "")
    # What fails its checksum is moved aside and computed anew; here one learns of it.
    damaged = sorted(store.root.glob("*/*.corrupt")) + sorted(store.root.glob("work/*/*.corrupt"))
    for path in damaged:
        table.add_row(str(path.relative_to(store.root)), "damaged, moved aside", "", "")
    rich.print(table)
    say(f"{total / _MIB:,.1f} MiB in finished stages.")


@app.command("pack")
def pack_store(
    out: Annotated[Path, typer.Option(help="Folder for the packs.")],
    campaign: Annotated[
        Path | None, typer.Option(help="Only what this campaign still needs; else everything.")
    ] = None,
    max_mib: Annotated[float, typer.Option(help="Largest size of a pack, in MiB.")] = 16,
) -> None:
    """Write what is computed, and the checkpoints of what is in progress, into files that can
    travel.
    """
    store = Store.default()
    parcels = needed(Campaign.load(campaign), store) if campaign else everything(store)
    packs = pack(store, parcels, out, int(max_mib * _MIB))
    size = sum(path.stat().st_size for path in packs)
    say(f"Wrote {len(packs)} packs, {size / _MIB:,.1f} MiB, to {out}")
    # Reported at the end: other stages can be computed from what was packed.
    if files := lacking(store, parcels):
        raise StorageError(
            f"what is left of the campaign reads {len(files)} files that aren't in this store, so "
            f"the packs don't have them either: {', '.join(files)}. Unpack a pack that has them, or "
            "delete these stages' folders to compute them again; then pack again."
        )


@app.command("unpack")
def unpack_store(
    packs: Annotated[list[Path], typer.Argument(help="Packs, or folders of them.")],
) -> None:
    """Verify packs and put into the store what isn't there yet."""
    files: list[Path] = []
    for path in packs:
        # Other files may lie in the folder, too.
        files += sorted(path.glob("pack-*.bin")) if path.is_dir() else [path]
    done = unpack(Store.default(), files)
    counts = ", ".join(f"{number} {outcome}" for outcome, number in sorted(done.counts.items()))
    say(f"Read {len(files)} packs: {counts or 'nothing in them'}")
    # Reported at the end, after everything that is whole was unpacked.
    if done.problems:
        raise IntegrityError(
            f"{len(done.problems)} problems; the rest was unpacked. {' '.join(done.problems)}"
        )
