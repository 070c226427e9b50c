"""Parameters of a page, checked before anything is computed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from lotperm.config.experiment import Experiment
from lotperm.config.fields import Count, FromZero, Parameter, Switch
from lotperm.config.parameters import PARAMETERS
from lotperm.errors import unknown_name
from lotperm.studies import registry
from lotperm.studies.study import Options

_HOW = "how it is computed"

RUNTIME: dict[str, Parameter] = {
    parameter.name: parameter
    for parameter in (
        Parameter("device", Literal["cpu", "cuda"], "where it is computed", _HOW, "cpu"),
        Parameter(
            "compile", Switch, "compile the steps: pays off in training of minutes", _HOW, False
        ),
        Parameter(
            "microbatch", Count, "examples of a batch at a time, where memory is short", _HOW, None
        ),
        Parameter("workers", FromZero, "processes that read images", _HOW, None),
    )
}
"""Parameters of a page that say how to compute, as opposed to what: fields of `Runtime`."""


def runtime_options(given: Mapping[str, Any]) -> dict[str, Any]:
    """Pick the `RUNTIME` parameters that are given, and check them.

    Raises
    ------
    ParameterError
        If a value makes no sense.
    """
    return {n: p.check(given[n]) for n, p in RUNTIME.items() if given.get(n) is not None}


def page_parameters(figure: str, given: Mapping[str, Any]) -> tuple[list[Experiment], Options]:
    """Check the parameters of a page; nothing is computed.

    Parameters
    ----------
    figure : str
        The figure's name in the book.
    given : mapping
        Flat parameters of the experiment (`lotperm parameters`), ``widths``, options of the
        question, and `RUNTIME`; None stands for the default.

    Returns
    -------
    experiments : list of Experiment
        One for each width.
    options : Options
        The question's options.

    Raises
    ------
    ParameterError
        If a name is unknown (the nearest one is suggested), or a value makes no sense.
    """
    study = registry.study_of(figure)
    known = (*PARAMETERS, *study.page_parameters, *RUNTIME)
    # Names are checked first. What follows picks only known names, so a misspelt one would be
    # ignored, and the default computed in its place.
    for name in given:
        if name not in known:
            raise unknown_name("parameter", name, known)
    runtime_options(given)
    of_experiment = {n: v for n, v in given.items() if n in PARAMETERS}
    # Without None: a study's page may have other defaults than its options.
    own = {n: v for n, v in given.items() if n in study.page_parameters and v is not None}
    # Widths aren't a parameter of one experiment: each makes an experiment of its own.
    widths = of_experiment.pop("widths", None)
    experiments = Experiment.for_figure(figure, widths=widths, **of_experiment)
    options = study.page_options(**own)
    # Refused now: the page would otherwise fail in the middle, after hours of training.
    for experiment in experiments:
        study.check_page(experiment, options)
    return experiments, options
