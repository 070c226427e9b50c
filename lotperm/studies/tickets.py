"""Tickets that travel: a mask, its permutation, and the weights that it is put on, in one file.

For one seed and one rewind epoch k, a file has the masks of A at every sparsity, the permutation
that aligns A to B, and the weights of A and B after k epochs. That is everything needed to train
the three arms, or a fourth of one's own, without the dense training and the pruning. The files are
plain safetensors, with names such as ``mask/0.9/fc1.weight``, ``permutation/fc1``,
``weights_a/fc1.weight``, ``weights_b/fc1.weight``; the metadata name the experiment.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

import torch
from torch import Tensor, nn

from lotperm.config.canonical import canonical_json
from lotperm.config.experiment import Experiment
from lotperm.config.seeds import Seeds
from lotperm.data.dataset import Dataset
from lotperm.engine.models import Weights, shapes_alone
from lotperm.engine.runtime import Runtime
from lotperm.engine.training import Trained, train
from lotperm.errors import IntegrityError, ParameterError
from lotperm.parallel import distributed
from lotperm.science.sparsity import Mask, prunable_parameters
from lotperm.science.symmetry import Permutation
from lotperm.store.files import load_tensors, save_tensors
from lotperm.store.tasks import Task, chain
from lotperm.studies.arms.arms import ARMS, FOUND, PAPER_ARMS, Parts, arm_of, start
from lotperm.studies.stages import dense, matchings, ticket_masks
from lotperm.studies.workbench import Workbench

# Distinguishes tickets from other files of tensors: masks, permutations, weights.
KIND = "ticket"


@dataclass(frozen=True)
class Ticket:
    """A mask of A, the permutation that carries it over to B, and both networks' weights.

    Attributes
    ----------
    experiment : Experiment
        The experiment from which it comes.
    seed : int
        The seed of the replicate.
    sparsity : float
        Fraction of the prunable weights that the mask removes.
    rewind_epoch : int
        k, the epochs after which `weights_a` and `weights_b` were kept.
    mask : Mask
        A's mask: name of a parameter -> bool, of its shape.
    permutation : Permutation
        π, which aligns A to B: group -> int64 (n,).
    weights_a, weights_b : Weights
        Complete state dicts, float32.
    """

    experiment: Experiment
    seed: int
    sparsity: float
    rewind_epoch: int
    mask: Mask
    permutation: Permutation
    weights_a: Weights
    weights_b: Weights

    @cached_property
    def _bench(self) -> Workbench:
        """The experiment's network and data; the latter aren't loaded until they are asked for."""
        return Workbench(self.experiment)

    def network(self) -> nn.Module:
        """Build a new network of the experiment's architecture; its weights mean nothing."""
        return self._bench.build()

    @property
    def data(self) -> Dataset:
        """The data set of the experiment, loaded by `lotperm.data.datasets.load` at first use."""
        return self._bench.data

    def start(self, arm: str) -> tuple[Weights, Mask]:
        """Return what an arm starts from: its weights, not masked yet, and its mask.

        Parameters
        ----------
        arm : str
            "lth" (A, m), "permuted" (B, π(m)) or "naive" (B, m).
        """

        parts = Parts(
            seed=self.seed,
            trace=lambda: self._bench.spec,
            weights={"a": self.weights_a, "b": self.weights_b},
            mask=self.mask,
            permutations={FOUND: self.permutation},
        )
        return start(arm_of(arm), parts)

    def train(self, arms: Sequence[str] = PAPER_ARMS, runtime: Runtime | None = None) -> Trained:
        """Train arms as the experiment did: from epoch k, by its recipe, in its order of examples.

        Parameters
        ----------
        arms : sequence of str, optional
            Names in `ARMS`; the result has one member for each.
        runtime : Runtime, optional
            How to compute.

        Returns
        -------
        Trained
            Evaluated before the first epoch (0) and after the last one.
        """
        starts = [self.start(arm) for arm in arms]
        recipe = self.experiment.sparse_recipe(self.rewind_epoch)
        return train(
            self.network(),
            [weights for weights, _ in starts],
            self.data,
            recipe,
            # The streams of the experiment's own arms: the examples come in the same order.
            [Seeds.of(ARMS[arm].stream, self.seed) for arm in arms],
            masks=[mask for _, mask in starts],
            evaluate_at=(0, recipe.epochs),
            runtime=runtime or Runtime(),
            label="from a ticket",
        )


def file_name(seed: int, rewind_epoch: int) -> str:
    """Name the file with the tickets of a seed and a rewind epoch."""
    return f"seed{seed}_k{rewind_epoch}.safetensors"


def save_tickets(bench: Workbench, folder: Path | str, limit: int | None = None) -> list[Path]:
    """Write the tickets of a finished experiment: a file for each seed and rewind epoch.

    Parameters
    ----------
    bench : Workbench
        The experiment. Its stages are computed if they aren't yet.
    folder : Path or str
        Where to write; made if it isn't there.
    limit : int, optional
        Largest size of all files together, in bytes. Seeds that no longer fit are left out with all
        of their files.

    Returns
    -------
    list of Path
        The files, by seed, then rewind epoch. Empty if not even the first seed fits.

    Notes
    -----
    All ranks must call this; one of them writes.
    """
    experiment, paths, left = bench.experiment, [], limit
    # A stage's file holds all seeds: read for each seed, it would be read many times.
    everything = {k: _tensors(bench, k) for k in experiment.rewind_epochs}
    for i, seed in enumerate(experiment.seeds):
        files = {file_name(seed, k): replicates[i] for k, replicates in everything.items()}
        size = sum(t.nbytes for tensors in files.values() for t in tensors.values())
        if left is not None and (left := left - size) < 0:
            break
        for k, (name, tensors) in zip(experiment.rewind_epochs, files.items(), strict=True):
            notes = {
                "kind": KIND,
                # Canonical text, so that the same ticket has the same bytes.
                "experiment": canonical_json(experiment.to_dict()),
                "seed": str(seed),
                "rewind_epoch": str(k),
            }
            path = Path(folder) / name
            distributed.once(partial(save_tensors, path, tensors, notes))
            paths.append(path)
    return paths


def publish(
    benches: Sequence[Workbench], folder: Path, limit: int, *, made_of: Sequence[Task]
) -> str:
    """Write the tickets of a finished table, replacing any that are there.

    Parameters
    ----------
    benches : sequence of Workbench
        One for each group of seeds.
    folder : Path
        Where to write.
    limit : int
        Largest size of all files together, in bytes.
    made_of : sequence of Task
        The arms' stages; tickets hold the files that these read.

    Returns
    -------
    str
        What was written, in words.
    """
    stages = {task.key: task.run() for task in chain(made_of)}
    read = [(key, file) for task in made_of for key, files in task.reads.items() for file in files]
    # A table that was computed elsewhere may have come here without the files that no later stage
    # reads.
    if any(f"{file}.safetensors" not in stages[key].files for key, file in read):
        if folder.exists():
            return "its tickets stay as they are"
        return "its tickets can't be written, as the store lacks files of its stages"
    # Tickets that are there may come from another run, with other seeds.
    shutil.rmtree(folder, ignore_errors=True)
    paths: list[Path] = []
    for bench in benches:
        written = save_tickets(bench, folder, limit)
        paths += written
        limit -= sum(path.stat().st_size for path in written)
        # Later groups are left out as well: the published seeds are the first ones.
        if len(written) < len(bench.experiment.seeds) * len(bench.experiment.rewind_epochs):
            break
    if not paths:
        return "its tickets are too large to publish"
    return f"{len(paths)} files of tickets in {folder}"


def _tensors(bench: Workbench, rewind_epoch: int) -> list[dict[str, Tensor]]:
    """Collect the tensors of a file, for every replicate."""
    a, b = dense(bench).weights(rewind_epoch)
    parts: dict[str, Sequence[Mapping[str, Tensor]]] = {
        "weights_a": a,
        "weights_b": b,
        "permutation": matchings(bench),
    }
    for sparsity in bench.experiment.sparsities:
        # repr gives the shortest digits that read back as the same float, so a sparsity finds its
        # mask.
        parts[f"mask/{sparsity!r}"] = ticket_masks(bench, sparsity, rewind_epoch)
    return [
        {
            f"{part}/{name}": tensor
            for part, each in parts.items()
            for name, tensor in each[i].items()
        }
        for i in range(len(a))
    ]


def load_ticket(path: Path | str, sparsity: float | None = None) -> Ticket:
    """Read a ticket from a file, and check it against the network that it names.

    Parameters
    ----------
    path : Path or str
        A file that `save_tickets` wrote.
    sparsity : float, optional
        Sparsity of the mask to take, if there are several.

    Raises
    ------
    IntegrityError
        If the file is corrupt, isn't a ticket, or its tensors don't fit the network that it names.
    ParameterError
        If it has no mask of that sparsity, or several and none was chosen.
    StorageError
        If it can't be read.
    """
    path = Path(path)
    # A ticket comes from elsewhere: without a checksum it isn't taken.
    tensors, notes = load_tensors(path, checked=True)
    if notes.get("kind") != KIND:
        raise IntegrityError(
            f"{path} holds {notes.get('kind', 'tensors')!r}; expected a ticket, as lotperm writes it."
        )
    try:
        experiment = Experiment.from_dict(json.loads(notes["experiment"]))
        seed, k = int(notes["seed"]), int(notes["rewind_epoch"])
    # The notes may be missing, not be JSON, or not describe an experiment of this package.
    except (KeyError, ValueError, ParameterError) as error:
        raise IntegrityError(
            f"{path} says nothing sensible about its experiment: {error}"
        ) from error
    chosen = _chosen(path, experiment.sparsities, sparsity)
    ticket = Ticket(
        experiment,
        seed,
        chosen,
        k,
        dict(_part(tensors, f"mask/{chosen!r}/")),
        dict(_part(tensors, "permutation/")),
        dict(_part(tensors, "weights_a/")),
        dict(_part(tensors, "weights_b/")),
    )
    _check(path, ticket)
    return ticket


def _chosen(path: Path, available: Sequence[float], sparsity: float | None) -> float:
    words = ", ".join(f"{s:g}" for s in available)
    # A file has the masks of all sparsities; which one is meant can't be guessed.
    if sparsity is None and len(available) > 1:
        raise ParameterError(f"{path} has masks of sparsity {words}; choose one of them.")
    if sparsity is not None and sparsity not in available:
        raise ParameterError(
            f"{path} has no mask of sparsity {sparsity:g}; expected one of {words}."
        )
    return available[0] if sparsity is None else sparsity


def _part(tensors: dict[str, Tensor], prefix: str) -> Iterator[tuple[str, Tensor]]:
    return (
        (name.removeprefix(prefix), t) for name, t in tensors.items() if name.startswith(prefix)
    )


def _check(path: Path, ticket: Ticket) -> None:
    """Refuse tensors that don't fit the network that the file names."""
    # The file may name a network of any size, so no memory is allocated for it until the file's own
    # tensors have turned out to be as large.
    with shapes_alone():
        network = ticket.network()
    state, rule = network.state_dict(), ticket.experiment.pruning.prunable
    # A mask has the shape of its weights, in bool.
    prunable = {name: state[name].to(torch.bool) for name in prunable_parameters(network, rule)}
    given = (
        ("weights_a", ticket.weights_a, state),
        ("weights_b", ticket.weights_b, state),
        ("mask", ticket.mask, prunable),
    )
    for what, tensors, expected in given:
        if _forms(tensors) != _forms(expected):
            odd = sorted(dict(_forms(tensors).items() ^ _forms(expected).items()))
            raise IntegrityError(f"{path}: {what} doesn't fit the network, {odd[:3]} differ.")
    # A group without a permutation would stay as it is, unnoticed.
    if (groups := ticket._bench.spec.sizes.keys()) != ticket.permutation.keys():
        odd = sorted(groups ^ ticket.permutation.keys())
        raise IntegrityError(f"{path}: the permutation doesn't fit the network, {odd[:3]} differ.")
    try:
        # Whether each group really is a permutation shows when the mask is permuted, which is
        # cheap.
        ticket.start("permuted")
    except ParameterError as error:
        raise IntegrityError(f"{path}: {error}") from error


def _forms(tensors: Weights | Mask) -> dict[str, tuple[torch.Size, torch.dtype]]:
    return {name: (tensor.shape, tensor.dtype) for name, tensor in tensors.items()}
