"""A question as one object: what it computes, its table, its record.

To ask a new question, add a folder to ``lotperm/studies`` (or to a folder that the variable
``LOTPERM_STUDIES`` names) with

- ``study.py``: a subclass of `Study`, and an instance of it called ``STUDY``;
- ``figures.toml``: what its figures run at every profile (see `lotperm.config.presets`);
- ``page.py``: a subclass of `lotperm.studies.page.Page` called ``Page``, which draws;

and a notebook in ``notebooks`` that opens the page. Campaigns, sweeps, plans, records and the
command line then find it automatically.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

import pandas as pd

from lotperm.config.experiment import Experiment
from lotperm.store.tasks import Plain, Task, chain, provenance
from lotperm.studies.records import records, save_record
from lotperm.studies.workbench import Workbench


def option(default: Any, parse: Callable[[str, Any], Any], help: str) -> Any:
    """Declare an option of a question: its default, how a given value is checked, what it means.

    Parameters
    ----------
    default : object
        The value if none is given; None if `Options.completed` finds one.
    parse : callable
        Takes name and value; returns the value in its type, or raises `ParameterError`.
    help : str
        The option's meaning, in a few words.
    """
    # All in the field itself, so that default, check and help can't drift apart.
    return field(default=default, metadata={"parse": parse, "help": help})


@dataclass(frozen=True)
class Options:
    """Options of a question; subclasses declare each as a field with `option`."""

    @classmethod
    def parse(cls, given: Mapping[str, Any]) -> Any:
        """Check given values; None stands for the default.

        Raises
        ------
        ParameterError
            If a value has the wrong type.
        """
        values = {}
        for declared in dataclasses.fields(cls):
            # A campaign file or a notebook's cell may name an option and leave its value open.
            if (value := given.get(declared.name)) is not None:
                values[declared.name] = declared.metadata["parse"](declared.name, value)
        return cls(**values)

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """List the names of the options."""
        return tuple(declared.name for declared in dataclasses.fields(cls))

    def completed(self, experiment: Experiment) -> Any:
        """Return the options with what follows from the experiment, checked against it.

        Raises
        ------
        ParameterError
            If the question can't be asked of this experiment.
        """
        return self

    def plain(self) -> Plain:
        """Return the options as plain JSON data."""
        return {
            # JSON has no tuples: options stay equal when a record is written and read.
            name: list(value) if isinstance(value, tuple) else value
            for name, value in dataclasses.asdict(self).items()
        }


OptionsT = TypeVar("OptionsT", bound=Options)


class Study(Generic[OptionsT]):
    """A question: the stages that answer it, its table and its record.

    Attributes
    ----------
    name : str
        Its name in campaign files (``kind``).
    words : dict
        Name of a stage of its own -> its name in plans.
    Options : type
        The class of its options.
    columns : tuple of str
        Columns of its table that identify a row; they come first.
    publishes : bool
        True if `publish` writes something, made of files that the question's own stages read.
    """

    name: ClassVar[str]
    words: ClassVar[Mapping[str, str]] = {}
    Options: type[OptionsT]
    columns: ClassVar[tuple[str, ...]] = ()
    publishes: ClassVar[bool] = False

    def tasks(self, bench: Workbench, options: OptionsT) -> list[Task]:
        """List the stages that answer the question, without those that they build on."""
        raise NotImplementedError

    def table(self, bench: Workbench, options: OptionsT) -> pd.DataFrame:
        """Compute the answer, or load it, as a tidy table."""
        raise NotImplementedError

    def split(self, experiment: Experiment, options: OptionsT) -> list[Experiment]:
        """Divide an experiment into several that are computed separately and recorded as one."""
        return [experiment]

    @property
    def page_parameters(self) -> tuple[str, ...]:
        """Names of the parameters that the question's page takes besides the experiment's."""
        return self.Options.names()

    def page_options(self, **parameters: Any) -> OptionsT:
        """Make the options of a page from those of its parameters that aren't the experiment's."""
        return self.Options.parse(parameters)

    def check_page(self, experiment: Experiment, options: OptionsT) -> None:
        """Refuse an experiment that the question's page can't show."""
        # Completing options checks them against the experiment.
        options.completed(experiment)

    def chapter(self, benches: Sequence[Workbench], options: OptionsT) -> list[Task]:
        """List the stages that the question's page computes, one workbench for each width."""
        return [
            task
            for bench in benches
            for task in self.tasks(bench, options.completed(bench.experiment))
        ]

    def publish(self, benches: Sequence[Workbench], options: OptionsT, folder: Path) -> str | None:
        """Write what accompanies a record into its folder; return a few words about it, or None."""
        return None

    def record(self, benches: Sequence[Workbench], options: OptionsT, folder: Path) -> None:
        """Write the finished answer for the book: ``results.csv`` and ``results.json``.

        Parameters
        ----------
        benches : sequence of Workbench
            One for each part that `split` made.
        options : Options
            Completed for the experiment.
        folder : Path
            Where the record goes.
        """
        table = pd.concat([self.table(bench, options) for bench in benches], ignore_index=True)
        # Readers of the CSV file first see what a row is about.
        table = table[[*self.columns, *(c for c in table if c not in self.columns)]]
        # With every stage before them: a record says how each network behind its numbers was made.
        tasks = chain(task for bench in benches for task in self.tasks(bench, options))
        content = {
            "kind": self.name,
            "experiment": benches[0].experiment.to_dict(),
            "options": options.plain(),
            "summary": records(table),
            "stages": provenance(tasks),
        }
        save_record(folder, content, {"results": table})


def cells(experiment: Experiment) -> list[tuple[float, int]]:
    """List the pairs of sparsity and rewind epoch of an experiment."""
    return [(s, k) for s in experiment.sparsities for k in experiment.rewind_epochs]


def of_all_cells(
    experiment: Experiment, table_of: Callable[[float, int], pd.DataFrame]
) -> pd.DataFrame:
    """Join the tables of all cells, with columns that name the cell of each row.

    Parameters
    ----------
    experiment : Experiment
        The experiment.
    table_of : callable
        Takes sparsity and rewind epoch; returns the cell's table.
    """
    found = [table_of(s, k).assign(sparsity=s, rewind_epoch=k) for s, k in cells(experiment)]
    return pd.concat(found, ignore_index=True)
