"""What is planned: a figure of the book, or the entries of a campaign."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from lotperm.cluster.campaign import Campaign
from lotperm.cluster.entry import Entry
from lotperm.config.experiment import Experiment
from lotperm.store.stages import Store
from lotperm.store.tasks import Task
from lotperm.studies import registry
from lotperm.studies.workbench import Workbench


@dataclass(frozen=True)
class Part:
    """Something to plan: experiments, and the tasks that are asked for.

    Attributes
    ----------
    name : str
        Name of a figure, or of a campaign's entry.
    experiments : tuple of Experiment
        One for each width.
    asked : callable
        Lists the tasks that are asked for, from a workbench for each experiment; the tasks that
        these need are added later.
    """

    name: str
    experiments: tuple[Experiment, ...]
    asked: Callable[[Sequence[Workbench]], list[Task]]

    def tasks(self, store: Store) -> list[Task]:
        """List the tasks that are asked for, without those before them."""
        return self.asked([Workbench(e, store) for e in self.experiments])


def figure(name: str, **parameters: Any) -> Part:
    """Plan a figure of the book, with the stages that its page computes.

    Parameters
    ----------
    name : str
        Its name in the book, or in the paper (figure5, table1).
    **parameters
        Parameters of its experiments, as `Experiment.for_figure` takes them.

    Raises
    ------
    ParameterError
        As `Experiment.for_figure`.
    """
    name = registry.figure_name(name)
    experiments = Experiment.for_figure(name, **parameters)
    asked = registry.study_of(name)
    # With the page's own defaults, since what the page computes is planned.
    options = asked.page_options()
    return Part(name, tuple(experiments), lambda benches: asked.chapter(benches, options))


def campaign(content: Campaign) -> list[Part]:
    """Plan the entries of a campaign, a part for each."""

    # A function for each entry: a lambda in a loop would see the last one only.
    def of(entry: Entry) -> Part:
        return Part(
            entry.name,
            entry.experiments,
            lambda benches: [task for bench in benches for task in entry.own_tasks(bench)],
        )

    return [of(entry) for entry in content.entries]
