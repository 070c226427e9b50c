"""Plans: what experiments will cost in images, FLOPs, hours, memory and disk.

A plan needs neither data nor results. Its stages are those that would be computed
(`Pipeline.tasks`), so that what is shared is counted once. What is planned is a `Part`
(`lotperm.cluster.parts`), and an `Estimator` turns each stage into costs on a device
(`lotperm.cluster.estimate`); `notes_on` says what they rest on.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from lotperm.cluster.amounts import count, flop, hours, size
from lotperm.cluster.estimate import Estimator, Line, experiment_name, measured
from lotperm.cluster.notes import notes_on
from lotperm.cluster.parts import Part, campaign, figure
from lotperm.config.experiment import Experiment
from lotperm.store.stages import Store
from lotperm.store.tasks import Task, chain

__all__ = [
    "Estimator",
    "Line",
    "Part",
    "Plan",
    "campaign",
    "figure",
    "growth",
    "hours",
    "measured",
    "plan",
]


@dataclass(frozen=True)
class Plan:
    """The cost of some experiments.

    Attributes
    ----------
    title : str
        What is planned.
    lines : list of Line
        The costs by network and kind of stage.
    total : Line
        Their sum.
    there : int
        Number of these stages that the store has already.
    separately : dict of str to Line
        A way of computing without sharing -> its total.
    notes : list of str
        Sources and assumptions of the numbers.
    """

    title: str
    lines: list[Line]
    total: Line
    there: int
    separately: dict[str, Line]
    notes: list[str]

    def rows(self) -> list[dict[str, str]]:
        """Return the table as text, the total last."""
        return [_row(line) for line in (*self.lines, self.total)]

    def comparison(self) -> list[dict[str, str]]:
        """Compare the plan with computing without sharing, as text."""
        total, rows = self.total, []
        for what, line in {"every stage once": total, **self.separately}.items():
            factor = f"{line.flops / total.flops:.2f}" if total.flops else "–"
            rows.append(
                {
                    "how": what,
                    "epochs": f"{line.epochs:,}",
                    "FLOP": flop(line.flops),
                    "hours": hours(line),
                    "× the plan": factor,
                }
            )
        return rows


def _row(line: Line) -> dict[str, str]:
    return {
        "network": line.network,
        "stages of": line.group,
        "stages": count(line.stages),
        "networks": count(line.networks),
        "epochs": count(line.epochs),
        "trained": count(line.train_images),
        "forward": count(line.forward_images),
        "FLOP": flop(line.flops),
        "hours": hours(line),
        "device": size(line.device_bytes),
        "host": size(line.host_bytes),
        "disk": size(line.disk_bytes),
    }


def plan(
    parts: Sequence[Part], estimator: Estimator, store: Store | None = None, title: str = ""
) -> Plan:
    """Plan some parts together, counting stages that they share once.

    Parameters
    ----------
    parts : sequence of Part
        What to plan.
    estimator : Estimator
        Turns stages into costs on a device.
    store : Store, optional
        The store in which finished stages are looked up; by default the default store.
    title : str, optional
        The plan's title; by default the parts' names.
    """
    store = store or Store.default()
    asked = [part.tasks(store) for part in parts]
    # A stage that several parts share is in the chain once.
    tasks = chain(task for own in asked for task in own)
    lines: dict[tuple[str, str], Line] = {}
    for task in tasks:
        line = estimator.line(task)
        key = (line.network, line.group)
        lines[key] = lines[key] + line if key in lines else line
    # By network in order of appearance, then in the order in which stages are computed; stages that
    # no question names come last.
    places = {name: i for i, name in enumerate(estimator.words.values())}
    networks = list(dict.fromkeys(line.network for line in lines.values()))
    ordered = sorted(
        lines.values(), key=lambda x: (networks.index(x.network), places.get(x.group, 99))
    )
    # The cost without sharing: the authors' scripts train dense networks and mask again for every
    # sparsity, and plain scripts do so for every arm.
    once_per_mask = (t for own in asked for group in _by_mask(own) for t in chain(group))
    once_per_arm = (t for own in asked for task in own for t in _every_arm(task))
    separately = {
        "dense networks and mask again for every sparsity": estimator.total(once_per_mask),
        "dense networks and mask again for every arm": estimator.total(once_per_arm),
    }
    there = sum(task.exists() for task in tasks)
    return Plan(
        title or ", ".join(part.name for part in parts),
        ordered,
        estimator.total(tasks),
        there,
        separately,
        notes_on(tasks, estimator),
    )


def _every_arm(task: Task) -> Iterator[Task]:
    """Yield the tasks of a separate run for each arm, where every run computes all it needs."""
    # A stage trains all its arms of all seeds together.
    arms = max(1, task.work.networks // len(task.experiment.seeds))
    for before in chain(task.after):
        yield from [before] * arms
    yield task


def _by_mask(asked: Iterable[Task]) -> list[list[Task]]:
    """Group tasks by the mask they need, as for a script that starts anew for each mask."""
    groups: dict[tuple[str | None, Experiment], list[Task]] = {}
    for task in asked:
        # Rounds are in order, so the last one has the mask that the task uses.
        masks = [before.key for before in chain([task]) if before.name in ("imp", "mask")]
        groups.setdefault((masks[-1] if masks else None, task.experiment), []).append(task)
    return list(groups.values())


def growth(part: Part, estimator: Estimator, store: Store | None = None) -> list[dict[str, str]]:
    """Compute how the cost of a part's first experiment grows.

    The experiment gets one more seed, rewind point or round of pruning, or twice the width.

    Seeds are trained together, so a seed that is added later is a new experiment: plan for all of
    them at once.

    Returns
    -------
    list of dict
        A row of text for each change: what, epochs, FLOP, hours, and how many percent more FLOP.
    """
    store = store or Store.default()
    e = part.experiments[0]
    # An epoch about where dense training keeps weights in any case, next to the last rewind epoch.
    others = set(range(0, e.dense.epochs, max(1, e.dense.epochs // 40))) - set(e.rewind_epochs)
    k = min(others, key=lambda k: (abs(k - max(e.rewind_epochs)), k), default=None)
    # Another round removes the same fraction of what is left.
    deeper = 1 - (1 - max(e.sparsities)) * (1 - e.pruning.fraction)
    change = partial(dataclasses.replace, e)
    wider = dataclasses.replace(e.model, width=2 * e.model.width)
    changed = {
        f"first network alone: {experiment_name(e)}": e,
        "one more seed": change(seeds=(*e.seeds, max(e.seeds) + 1)),
        f"one more sparsity, a round beyond the last ({deeper:.3f})": change(
            sparsities=(*e.sparsities, deeper)
        ),
        "twice the width": change(model=wider),
    }
    if k is not None:
        # Where the kept epochs are given, the new rewind epoch must be one of them.
        kept = None if e.keep is None else (*e.keep, k)
        changed[f"one more rewind point (k = {k})"] = change(
            rewind_epochs=(*e.rewind_epochs, k), keep=kept
        )
    rows, first = [], None
    for what, experiment in changed.items():
        own = dataclasses.replace(part, experiments=(experiment,)).tasks(store)
        line = estimator.total(chain(own))
        first = first or line
        more = "" if line is first else f"+{100 * (line.flops / first.flops - 1):.0f} %"
        rows.append(
            {
                "what": what,
                "epochs": f"{line.epochs:,}",
                "FLOP": flop(line.flops),
                "hours": hours(line),
                "more FLOP": more,
            }
        )
    return rows
