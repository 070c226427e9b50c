"""How a page computes: given with its parameters, checked with them, part of no key."""

from __future__ import annotations

from pathlib import Path

import pytest

from lotperm.cli import notebooks as pages
from lotperm.errors import ParameterError
from lotperm.site import notebooks
from lotperm.studies.page import open_page
from lotperm.studies.parameters import RUNTIME, runtime_options

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"


@pytest.mark.parametrize("given", [True, "true"])
def test_a_page_compiles_where_asked(given: object) -> None:
    page = open_page("svhn", "smoke", compile=given, microbatch=50, workers=0)
    runtime = page.pipeline.runtime
    assert runtime.modes == ("compiled", "plain")
    assert (runtime.microbatch, runtime.workers) == (50, 0)
    # The command that the page shows leads back to the same page.
    assert f"-p compile={str(given).lower()} -p microbatch=50 -p workers=0" in page.made().data


def test_what_is_computed_does_not_depend_on_how() -> None:
    plain, compiled = (open_page("svhn", "smoke", compile=c) for c in (False, True))
    assert plain.pipeline.runtime.modes == ("plain",)
    assert [t.key for t in plain.pipeline.tasks()] == [t.key for t in compiled.pipeline.tasks()]


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("compile", "yes", "expected True or False"),
        ("compile", 0, "expected True or False"),
        ("microbatch", 0, "expected 1 or more"),
        ("workers", 1.5, "expected a whole number"),
        ("device", "auto", "unknown device 'auto'"),
    ],
)
def test_a_wrong_value_is_refused_before_anything_is_computed(
    name: str, value: object, message: str
) -> None:
    with pytest.raises(ParameterError, match=message):
        open_page("svhn", "smoke", **{name: value})


def test_what_is_not_given_has_its_default() -> None:
    assert runtime_options({"compile": None, "sparsity": 0.9}) == {}


def test_every_page_of_a_figure_takes_them() -> None:
    values = {"compile": True, "microbatch": 8, "workers": 1, "device": "cpu"}
    assert values.keys() == RUNTIME.keys()
    for page in sorted(NOTEBOOKS.glob("*.ipynb")):
        if page.stem[3:] in ("weight_symmetry", "loss_landscape", "method"):
            with pytest.raises(ParameterError, match="unknown parameter 'compile'"):
                notebooks.checked_parameters(page, {"compile": True})
        else:
            checked = notebooks.checked_parameters(page, values)
            assert values.items() <= notebooks.flat(checked).items()
            pages.validate(page, checked)


def test_the_device_is_found_before_the_notebook_runs(command, monkeypatch) -> None:
    given = {}

    def execute(page, out, values, **_):
        given.update(values)
        return out

    monkeypatch.setattr("lotperm.site.notebooks.execute", execute)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    code, _, err = command("run", "svhn", "-p", "device=auto")
    assert code == 0, err
    assert given["device"] == "cpu"
