"""The published tickets: what each file holds, an index of all files, and their model cards."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from safetensors import safe_open

from lotperm.config.profiles import with_current_profile
from lotperm.store.files import write_atomic
from lotperm.studies.arms.arms import PAPER_ARMS
from lotperm.studies.origin import subject
from lotperm.studies.tickets import KIND

CARD = "README.md"
"""Name of the card beside the files of a folder."""


@dataclass(frozen=True)
class TicketFile:
    """A published file of tickets.

    Attributes
    ----------
    path : Path
        The file.
    experiment : dict
        The experiment that it comes from, as plain data.
    seed, rewind_epoch : int
        Its replicate, and k.
    parameters : int
        Weights of one network.
    bytes : int
        Its size.
    sha256 : str
        Hash of the file, 64 hex digits.
    """

    path: Path
    experiment: dict[str, Any]
    seed: int
    rewind_epoch: int
    parameters: int
    bytes: int
    sha256: str

    @property
    def sparsities(self) -> list[float]:
        """The sparsities of its masks."""
        return list(self.experiment["sparsities"])

    @property
    def subject(self) -> str:
        """Data set and network in words."""
        e = self.experiment
        return subject(e["data"]["name"], e["model"]["name"], e["model"]["width"])

    def accuracies(self, sparsity: float) -> dict[str, float]:
        """Return what the arms of this replicate reached; arm -> percent.

        They come from ``results.csv`` of the record to which the file belongs.
        """
        rows = pd.read_csv(self.path.parents[1] / "results.csv")
        at = (
            (rows["seed"] == self.seed)
            & (rows["sparsity"] == sparsity)
            & (rows["rewind_epoch"] == self.rewind_epoch)
            & (rows["metric"] == "test_accuracy")
        )
        found = rows[at].set_index("method")["value"]
        return {arm: 100 * float(found[arm]) for arm in PAPER_ARMS}


def ticket_files(results: Path) -> list[TicketFile]:
    """Find the tickets of all records.

    Parameters
    ----------
    results : Path
        The folder of records, ``book/results`` of the repository.

    Returns
    -------
    list of TicketFile
        By record, then seed, then rewind epoch.
    """
    found = []
    for path in sorted(results.glob("*/tickets/*.safetensors")):
        # Only names and shapes are read, not the tensors.
        with safe_open(path, framework="pt") as file:
            notes = file.metadata()
            if notes.get("kind") != KIND:
                continue
            names = [name for name in file.keys() if name.startswith("weights_a/")]  # noqa: SIM118
            sizes = [file.get_slice(name).get_shape() for name in names]
        found.append(
            TicketFile(
                path,
                with_current_profile(json.loads(notes["experiment"])),
                int(notes["seed"]),
                int(notes["rewind_epoch"]),
                sum(_product(shape) for shape in sizes),
                path.stat().st_size,
                hashlib.sha256(path.read_bytes()).hexdigest(),
            )
        )
    return sorted(found, key=lambda f: (str(f.path.parent), f.seed, f.rewind_epoch))


def _product(shape: Sequence[int]) -> int:
    found = 1
    for side in shape:
        found *= side
    return found


def loading(file: TicketFile, sparsity: float) -> str:
    """Return five lines of Python that load a ticket and train with it."""
    name = "/".join(file.path.parts[-5:]) if "book" in file.path.parts else str(file.path)
    return (
        "from lotperm import load_ticket\n\n"
        f'file = "{name}"\n'
        f"ticket = load_ticket(file, sparsity={sparsity:g})\n"
        f'weights, mask = ticket.start("permuted")  # B after {file.rewind_epoch} epochs, and '
        "A's mask in B's order\n"
        'trained = ticket.train(["permuted"])  # by the experiment\'s recipe'
    )


def card(files: Sequence[TicketFile]) -> str:
    """Return the model card of a folder of tickets, as Markdown.

    Parameters
    ----------
    files : sequence of TicketFile
        All files of one folder.
    """
    first = files[0]
    e, sparsities = first.experiment, first.sparsities
    dense, each = e["dense"], len(files)
    lines = [
        "---",
        "license: mit",
        "library_name: lotperm",
        "tags: [lottery-ticket, sparse-training, weight-symmetry]",
        f"datasets: [{e['data']['name']}]",
        "---",
        "",
        f"# Lottery tickets: {first.subject}",
        "",
        f"{each} file{'s' if each > 1 else ''} of masks, permutation and rewind weights, for "
        f"{first.subject} at the profile `{e['profile']}`. Each is of one seed and one rewind epoch, "
        f"and holds A's masks at sparsity {', '.join(f'{s:g}' for s in sparsities)}, the permutation "
        "that aligns A to B, and the weights of A and B after the rewind epoch "
        f"({first.parameters:,} weights each).",
        "",
        "## How they were made",
        "",
        f"A and B were trained for {dense['epochs']} epochs (SGD, learning rate {dense['lr']:g}, batch "
        f"{dense['batch_size']}). A was pruned by magnitude in rounds of "
        f"{100 * e['pruning']['fraction']:g} %, and its units matched to B's by {e['matching']['matching']}s. "
        "`results.json` in the folder above names every parameter, device and version.",
        "",
        "## What the arms reached",
        "",
        "Test accuracy in percent of the sparse networks that were trained from each file.",
        "",
        "| file | sparsity | naive | permuted | LTH | bytes | sha256 |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for file in files:
        for sparsity in sparsities:
            arms = file.accuracies(sparsity)
            numbers = " | ".join(f"{arms[arm]:.1f}" for arm in ("naive", "permuted", "lth"))
            lines.append(
                f"| {file.path.name} | {sparsity:g} | {numbers} | {file.bytes:,} | `{file.sha256}` |"
            )
    lines += [
        "",
        "## To load one",
        "",
        "```python",
        loading(first, sparsities[0]),
        "```",
        "",
        "## What they are not for",
        "",
        "These are small networks for research into sparse training. They classify nothing of use, and a "
        "mask of theirs says little about other architectures.",
        "",
    ]
    return "\n".join(lines)


def write_cards(results: Path) -> list[Path]:
    """Write the card of every folder of tickets, and return the cards.

    Parameters
    ----------
    results : Path
        The folder of records, ``book/results`` of the repository.
    """
    folders: dict[Path, list[TicketFile]] = {}
    for file in ticket_files(results):
        folders.setdefault(file.path.parent, []).append(file)
    for folder, files in folders.items():
        write_atomic(folder / CARD, card(files).encode())
    return [folder / CARD for folder in folders]


def index(files: Sequence[TicketFile], sparsity: float = 0.9) -> pd.DataFrame:
    """Tabulate files: the origin of each, and what its arms reached at one sparsity.

    Returns
    -------
    DataFrame
        A row for each file, in their order; texts.
    """
    rows = []
    for file in files:
        at = sparsity if sparsity in file.sparsities else file.sparsities[0]
        arms = file.accuracies(at)
        rows.append(
            {
                "seed": str(file.seed),
                "k": f"{file.rewind_epoch} of {file.experiment['dense']['epochs']}",
                "S": ", ".join(f"{s:g}" for s in file.sparsities),
                f"naive (%), S = {at:g}": f"{arms['naive']:.1f}",
                "permuted (%)": f"{arms['permuted']:.1f}",
                "LTH (%)": f"{arms['lth']:.1f}",
                "MB": f"{file.bytes / 1e6:.2f}",
                "sha256": file.sha256[:16],
            }
        )
    return pd.DataFrame(rows)
