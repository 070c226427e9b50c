"""Pages of results: their experiments, what these computed, their tables and figures.

A notebook of results is a parameters cell, `open_page`, and one line for each thing that is shown.
What the page of a question shows is in the question's own ``page.py``.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any, ClassVar

import pandas as pd
from IPython.display import HTML

from lotperm.config.experiment import Experiment
from lotperm.engine.runtime import Runtime, tqdm_bar
from lotperm.studies import charts, registry, show, tables
from lotperm.studies.html import answer, command, csv_link, folded, how_made, number_form
from lotperm.studies.html import table as as_table
from lotperm.studies.origin import Origin, of_live
from lotperm.studies.parameters import page_parameters, runtime_options
from lotperm.studies.pipeline import Pipeline
from lotperm.studies.study import Study


class Page:
    """A page of results; subclasses add the tables and figures of a question.

    Parameters
    ----------
    figure : str
        The figure's name in the book.
    given : dict
        The page's parameters, as for `lotperm.studies.parameters.page_parameters`.

    Attributes
    ----------
    study : Study
        The question.
    experiments : list of Experiment
        One for each width.
    options : Options
        The question's options.
    pipelines : list of Pipeline
        One for each width.
    """

    study: ClassVar[Study[Any]]

    def __init__(self, figure: str, given: dict[str, Any]) -> None:
        self.figure, self.given = figure, given
        self.experiments, self.options = page_parameters(figure, given)
        # How a page computes isn't part of its experiment, and so not of any key.
        runtime = Runtime(**runtime_options(given), progress=tqdm_bar)
        # Nothing is computed yet: tables and figures ask for what they need.
        self.pipelines = [Pipeline(e, runtime=runtime) for e in self.experiments]
        charts.use_style()
        show.install(lambda: (self.origin,))

    @property
    def experiment(self) -> Experiment:
        """The experiment of the first width."""
        return self.experiments[0]

    @property
    def pipeline(self) -> Pipeline:
        """The pipeline of the first width."""
        return self.pipelines[0]

    @cached_property
    def origin(self) -> Origin:
        """The origin of the page's own numbers, which are computed here and now."""
        again = command(self.figure, self.experiment, self.given)
        return of_live(self.experiments, self.given.get("device") or "cpu", again)

    @cached_property
    def about(self) -> str:
        """Data set, network and profile, for titles of figures."""
        return tables.title(self.experiment)

    def answered(self, question: str, lines: Sequence[str]) -> HTML:
        """Answer the page's question by lines of HTML, with a warning at the profile for tests."""
        return HTML(answer(question, lines, smoke=self.experiment.profile == "smoke"))

    def settings(self) -> pd.DataFrame:
        """Return the settings of the experiments, a column for each width."""
        return tables.settings(self.pipelines)

    def folded_settings(self) -> HTML:
        """Fold away the settings of the page's run."""
        return HTML(folded("Settings of this page's run", as_table(self.settings())))

    def download(self, table: pd.DataFrame | Sequence[pd.DataFrame], name: str = "") -> HTML:
        """Make a link that downloads a table, or the tables of all widths as one.

        Parameters
        ----------
        table : DataFrame or sequence of DataFrame
            One table, or one for each width.
        name : str
            The beginning of the file's name; by default the figure's name. Kind, data set, network
            and profile follow, in the name and as columns.
        """
        if not isinstance(table, pd.DataFrame):
            table = tables.by_width(self.experiments, table)
        e = self.experiment
        # Name and columns say what a file holds, so that it is found again among other downloads.
        what = {"kind": "live", "dataset": e.data.name, "model": e.model.name, "profile": e.profile}
        parts = (name or self.figure, *what.values())
        table = table.assign(**what, source=self.origin.source[:12])
        return HTML(csv_link(table, f"{'_'.join(parts)}.csv"))

    def ask(self, name: str, answer: float, **options: Any) -> HTML:
        """Make a form that checks the answer to an exercise, a number computed on this page.

        Parameters
        ----------
        name : str
            Label of the exercise.
        answer : float
            The right answer.
        **options
            As in `lotperm.studies.html.number_form`.
        """
        return HTML(number_form(name, answer, **options))

    def made(self) -> HTML:
        """Say how the page was made, and which command makes it again."""
        return HTML(how_made(self.figure, self.experiment, self.given))


def open_page(
    figure: str,
    profile: str | None = None,
    widths: float | Sequence[float] | None = None,
    seeds: int | Sequence[int] | None = None,
    sparsity: float | Sequence[float] | None = None,
    rewind_epoch: int | Sequence[int] | None = None,
    device: str = "cpu",
    **more: Any,
) -> Any:
    """Open the page of a figure, with the parameters of its notebook in their order.

    Parameters
    ----------
    figure : str
        Name of the figure in the book, such as "resnet20_cifar10".
    profile, widths, seeds, sparsity, rewind_epoch : optional
        The parameters that readers change most; None stands for the figure's own values.
    device : str
        "cpu" or "cuda".
    **more
        All others, as for `lotperm.studies.parameters.page_parameters`.

    Returns
    -------
    Page
        The page of the figure's question. Nothing is computed yet.

    Raises
    ------
    ParameterError
        As `lotperm.studies.parameters.page_parameters`.
    """
    # In the order of the notebooks' parameters cells: the command that repeats the page keeps it.
    given = {
        "profile": profile,
        "widths": widths,
        "seeds": seeds,
        "sparsity": sparsity,
        "rewind_epoch": rewind_epoch,
        "device": device,
        **more,
    }
    return registry.page_of(figure)(figure, given)
