"""The book as readers get it: notebooks executed, site built, every page parsed."""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import nbformat
import pytest
import torch
from bs4 import BeautifulSoup
from nbformat.v4 import new_code_cell, new_notebook, new_output
from small import small_book, tiny_notebook

from lotperm.errors import LotpermError, ParameterError
from lotperm.site import build, notebooks, sphinx
from lotperm.store.provenance import source_hash

ROOT = Path(__file__).parents[2]

Pages = dict[Path, BeautifulSoup]


def this_package_is(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Stand in for the package's sources, however long someone edits them meanwhile."""
    for module in (build, notebooks):
        monkeypatch.setattr(module, "source_hash", lambda: name)


@pytest.fixture(autouse=True)
def _empty_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOTPERM_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def test_the_start_page_leads_to_every_page(site: Path) -> None:
    intro = (site / "book" / "intro.html").read_text(encoding="utf-8")
    assert "book/intro.html" in (site / "index.html").read_text(encoding="utf-8")
    for page in build.pages(ROOT):
        assert (site / page.with_suffix(".html")).exists()
        assert page.with_suffix(".html").name in intro or page.name == "intro.md"


def test_nothing_is_loaded_from_another_host(site: Path, parsed: Pages) -> None:
    outside = []
    for path, page in parsed.items():
        inline = [script.text for script in page.find_all("script") if not script.get("src")]
        outside += [(path, text) for text in inline if "://" in text]
    for path in site.rglob("*.css"):
        text = path.read_text(encoding="utf-8")
        outside += [
            (path, found)
            for found in re.findall(r"(?:@import|url\()\s*['\"]?(?:https?:)?//[^)\s]*", text)
        ]
    assert not outside


def test_formulas_are_set_by_our_own_mathjax(site: Path, parsed: Pages) -> None:
    for path, page in parsed.items():
        if page.select(".math"):
            scripts = [
                str(script["src"])
                for script in page.select("script[src]")
                if "mathjax" in str(script["src"])
            ]
            assert len(scripts) == 1
            assert (path.parent / urlsplit(scripts[0]).path).resolve() == (
                site / "mathjax/tex-svg-full.js"
            ).resolve()
    assert "Apache License" in (site / "mathjax" / "LICENSE").read_text()
    assert parsed[site / "book" / "intro.html"].select(".math")


def test_parameters_are_one_closed_block(site: Path, parsed: Pages) -> None:
    for page in build.pages(ROOT):
        if page.suffix == ".ipynb":
            soup = parsed[site / page.with_suffix(".html")]
            blocks = [
                block
                for block in soup.select("details")
                if notebooks.PARAMETERS_TITLE in block.text
            ]
            assert len(blocks) == 1
            assert blocks[0].select_one("[open]") is None
            assert not blocks[0].has_attr("open")
            assert "profile" in blocks[0].text


def test_a_second_build_does_only_what_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    this_package_is(monkeypatch, "this package")
    root, out = small_book(tmp_path), tmp_path / "out"
    rendered: list[str] = []
    render = build.render
    monkeypatch.setattr(build, "render", lambda *args: [rendered.append("again"), render(*args)])

    def built() -> Path:
        # By the profile's old name, which is understood and shown nowhere.
        given = {"sparsity": 0.5}
        return build.build("live", out, root=root, parameters=given, progress=False)

    index = built()
    page = out / "html" / "notebooks" / "04_method.html"
    before, stamp = page.read_bytes(), page.stat().st_mtime_ns
    assert b"laptop 0.5" in before and b"live 0.5" not in before
    with monkeypatch.context() as patch:
        patch.setattr("papermill.execute_notebook", lambda *_, **__: pytest.fail("executed again"))
        built()
        assert len(rendered) == 1
        assert page.stat().st_mtime_ns == stamp
        intro, prose = root / "book" / "intro.md", out / "html" / "book" / "intro.html"
        intro.write_text(f"{intro.read_text()}\nA line more.\n")
        built()
        assert len(rendered) == 2
        assert "A line more." in prose.read_text()
        prose.unlink()
        index.unlink()
        built()
        assert len(rendered) == 3
        assert prose.exists()
        assert index.exists()
    # The docstrings of another package are a page. That it would be rendered is enough here.
    monkeypatch.setattr(build, "render", lambda *_: rendered.append("again"))
    this_package_is(monkeypatch, "another package")
    built()
    assert len(rendered) == 4


def test_a_failing_cell_fails_the_build(tmp_path: Path) -> None:
    root = small_book(tmp_path)
    tiny_notebook(root / "notebooks" / "04_method.ipynb", last="raise ValueError('planted')")
    with pytest.raises(LotpermError, match=r"04_method.ipynb: cell 4 failed: ValueError: planted"):
        build.build("smoke", tmp_path / "out", root=root, progress=False)
    assert not (tmp_path / "out" / "html").exists()


def test_a_broken_reference_fails_the_build_again_and_again(tmp_path: Path) -> None:
    root = small_book(tmp_path)
    intro = root / "book" / "intro.md"
    whole = intro.read_text()
    intro.write_text(whole + "\nSee {ref}`nowhere` and {cite}`nobody2000`.\n")
    for _ in range(2):  # Sphinx would forget the warnings of pages that it doesn't read again
        with pytest.raises(LotpermError, match=r"intro\.md.*(nowhere|nobody2000)"):
            build.build("smoke", tmp_path / "out", root=root, progress=False)
    intro.write_text(whole)
    assert build.build("smoke", tmp_path / "out", root=root, progress=False).exists()


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    root = small_book(tmp_path)
    (root / "notebooks" / "04_method.ipynb").unlink()
    with pytest.raises(LotpermError, match="notebooks/04_method"):
        build.build("smoke", tmp_path / "out", root=root, progress=False)
    (root / "_toc.yml").unlink()
    with pytest.raises(LotpermError, match=r"_toc\.yml"):
        build.build("smoke", tmp_path / "out", root=root, progress=False)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"sparisty": 0.5}, "Did you mean 'sparsity'"),
        ({"sparsity": "high"}, "expected float"),
        ({"sparsity": True}, "expected float"),
        ({"sparsity": float("nan")}, "finite"),
        ({"seeds": [1, 2.5]}, "item 1"),
        ({"seeds": 3}, "expected list"),
        ({"width": 3.0}, "expected int"),
        ({"width": True}, "expected int"),
        ({"width": "3"}, "expected int"),
        ({"quick": 1}, "expected bool"),
        ({"profile": None}, "expected str"),
        ({"note": {"a": [float("inf")]}}, "finite"),
        ({"note": object()}, "expected"),
    ],
)
def test_wrong_parameters_are_refused_before_anything_runs(
    tmp_path: Path, given: Any, said: str
) -> None:
    notebook = tiny_notebook(tmp_path / "n.ipynb")
    with pytest.raises(ParameterError, match=said):
        notebooks.execute(notebook, tmp_path / "out.ipynb", given, cwd=tmp_path, progress=False)
    assert not (tmp_path / "runs").exists()
    assert not (tmp_path / "out.ipynb").exists()


def test_values_are_checked_before_anything_runs(tmp_path: Path) -> None:
    notebook = tiny_notebook(tmp_path / "n.ipynb")
    seen = {}

    def validate(_: Path, values: Any) -> None:
        seen.update(values)
        raise ParameterError("sparsity must be below 1")

    with pytest.raises(ParameterError, match="below 1"):
        notebooks.execute(
            notebook,
            tmp_path / "out.ipynb",
            {"sparsity": 2},
            validate=validate,
            cwd=tmp_path,
            progress=False,
        )
    assert not (tmp_path / "runs").exists()
    assert seen == {
        "profile": "smoke",
        "sparsity": 2.0,
        "seeds": [0, 1],
        "width": 3,
        "quick": False,
        "note": None,
    }


@pytest.mark.parametrize(
    ("profile", "given", "said"),
    [
        ("smoke", {"sparsit": 0.5}, "Did you mean 'sparsity'"),
        ("smoke", {"width": 0.5}, "expected int"),
        ("smok", {}, "Did you mean 'smoke'"),
    ],
)
def test_the_book_refuses_what_it_does_not_have(
    tmp_path: Path, profile: str, given: Any, said: str
) -> None:
    root = small_book(tmp_path)
    with pytest.raises(ParameterError, match=said):
        build.build(profile, tmp_path / "out", root=root, parameters=given, progress=False)
    assert not (tmp_path / "out").exists()


def test_an_int_is_taken_for_a_float_and_none_takes_all(tmp_path: Path) -> None:
    notebook = tiny_notebook(tmp_path / "n.ipynb")
    values = notebooks.checked_parameters(
        notebook, {"sparsity": 1, "seeds": (4,), "note": {"a": [1, "b", None]}}
    )
    assert repr(values["sparsity"]) == "1.0"
    assert values["seeds"] == [4]
    assert values["note"] == {"a": [1, "b", None]}


@pytest.mark.parametrize("source", ["a = f(1)", "import os", "a = b = 1", "print(1)"])
def test_only_literals_may_be_parameters(tmp_path: Path, source: str) -> None:
    notebook = tmp_path / "n.ipynb"
    nbformat.write(
        new_notebook(cells=[new_code_cell(source, metadata={"tags": ["parameters"]})]), notebook
    )
    with pytest.raises(ParameterError, match="plain"):
        notebooks.defaults(notebook)


def test_two_runs_are_identical_to_the_last_byte(tmp_path: Path) -> None:
    notebook = tiny_notebook(tmp_path / "n.ipynb")
    given = {"sparsity": 0.25, "note": 'ü"'}
    one = notebooks.execute(notebook, tmp_path / "one.ipynb", given, cwd=tmp_path, progress=False)
    two = notebooks.execute(notebook, tmp_path / "two.ipynb", given, cwd=tmp_path, progress=True)
    assert one.read_bytes() == two.read_bytes()
    nb = nbformat.read(one, as_version=4)
    nbformat.validate(nb)
    assert [cell.id for cell in nb.cells] == [f"cell-{i:02d}" for i in range(5)]
    assert (
        "sparsity: float = 0.25  # fraction that π moves\n" in nb.cells[1].source
    )  # comments stay
    assert notebooks.defaults(one)["note"] == 'ü"'
    assert nb.cells[2].outputs[0].text == "step\n" * 3  # one piece, no progress bar
    assert nb.cells[4].outputs[0].text == "smoke 0.25\n"
    text = one.read_text()
    assert not re.search(r'papermill|iopub|widgets|"execution"|0x[0-9a-f]{6}|it/s', text)
    assert nb.metadata.lotperm.source_hash == source_hash()
    # Committed notebooks are executed in place: that must not change them further.
    notebooks.execute(one, one, cwd=tmp_path, progress=False)
    assert nbformat.read(one, as_version=4).cells == nb.cells


def test_renewed_notebooks_keep_only_what_is_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    notebook = tiny_notebook(tmp_path / "n.ipynb")
    nb = nbformat.read(notebook, as_version=4)
    nb.cells[4].metadata["tags"] = ["nbval-check-output"]
    nbformat.write(nb, notebook)
    notebooks.renew(notebook)
    text, nb = notebook.read_text(), nbformat.read(notebook, as_version=4)
    assert [len(cell.outputs) for cell in nb.cells if cell.cell_type == "code"] == [0, 0, 0, 1]
    assert "lotperm" not in nb.metadata and text.endswith("}\n")
    notebooks.renew(notebook)
    assert notebook.read_text() == text


def test_renewed_notebooks_keep_the_profile_that_readers_get(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    notebook = tiny_notebook(tmp_path / "n.ipynb")
    nb = nbformat.read(notebook, as_version=4)
    nb.cells[1].source = nb.cells[1].source.replace('"smoke"', '"laptop"')
    nb.cells[4].metadata["tags"] = ["nbval-check-output"]
    nbformat.write(nb, notebook)
    assert notebooks.at_smoke(notebook).cells[1].source != nb.cells[1].source
    notebooks.renew(notebook)
    renewed = nbformat.read(notebook, as_version=4)
    assert renewed.cells[1].source == nb.cells[1].source
    assert renewed.cells[4].outputs[0].text == "smoke 0.9\n"


AS_AT_THE_START = """\
import matplotlib, pandas, torch
if not hasattr(matplotlib, "at_the_start"):
    own = {"backend", "backend_fallback", "interactive"}  # they belong to the kernel
    styles = {name: value for name, value in matplotlib.rcParams.items() if name not in own}
    matplotlib.at_the_start = styles, torch.initial_seed()
matplotlib.rcParams.update(matplotlib.at_the_start[0])
torch.manual_seed(matplotlib.at_the_start[1])
pandas.reset_option("^display");
"""


def test_what_a_stage_warned_of_is_not_shown() -> None:
    """From a store that has the stage, the page would be another."""
    own = (
        "\n/home/a b/lotperm/studies/stages.py:201: UserWarning: layer collapse: at sparsity 0.8\n"
        "  sources.name_collapse(bench, masks, target)\n"
    )
    other = "<ipython-input-2>:3: UserWarning: of the cell\n  warnings.warn('of the cell')\n"
    outputs = [new_output("stream", name="stderr", text=text) for text in (own * 2, own + other)]
    (kept,) = notebooks._tidy_outputs(outputs)
    assert kept.text.strip() == other.strip()


def threads(store: Path) -> int:
    """Return the number of threads that computed a store: with another, sums round otherwise."""
    notes = [json.loads(path.read_text()) for path in store.glob("stages/*/stage.json")]
    (number,) = {note["meta"]["threads"] for note in notes if "threads" in note["meta"]}
    return number


NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
PARTS = 3  # of the notebooks, which several processes of these tests can take at once


@pytest.mark.parametrize("part", range(PARTS))
def test_all_notebooks_show_the_same_bytes_from_another_empty_store(
    site: Path,
    site_store: Path,
    shared: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    part: int,
) -> None:
    """One kernel executes many: to start one for each takes longer than their cells."""
    # The parts share it, as the pages share `site_store`: no stage is computed more than twice.
    monkeypatch.setenv("LOTPERM_HOME", str(shared / "another-store"))
    monkeypatch.setenv("OMP_NUM_THREADS", str(threads(site_store)))
    notebooks_here = NOTEBOOKS[part::PARTS]
    whole = new_notebook()
    for notebook in notebooks_here:
        own = notebooks.at_smoke(notebook).cells
        for cell in own if whole.cells else []:  # the first one's cell of parameters is enough
            cell.metadata.pop("tags", None)
        whole.cells += [new_code_cell(AS_AT_THE_START), *own]
    for number, cell in enumerate(whole.cells):
        cell.id = str(number)
    nbformat.write(whole, tmp_path / "whole.ipynb")
    again = notebooks.execute(
        tmp_path / "whole.ipynb", tmp_path / "again.ipynb", cwd=ROOT, progress=False
    )
    left, different = nbformat.read(again, as_version=4).cells, []
    for notebook in notebooks_here:
        first = nbformat.read(site.parent / "src" / "notebooks" / notebook.name, as_version=4).cells
        second, left = left[1 : 1 + len(first)], left[1 + len(first) :]
        for one, two in zip(first, second, strict=True):
            assert one.source == two.source
            if shown(one) != shown(two):
                different.append((notebook.name, one.id))
    assert (left, different) == ([], [])


def shown(cell: nbformat.NotebookNode) -> list[dict[str, Any]]:
    """Return what a cell shows, without the number of the cell."""
    return [{**output, "execution_count": None} for output in cell.get("outputs", [])]


def test_what_was_executed_is_not_executed_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    this_package_is(monkeypatch, "this package")
    notebook, runs = tiny_notebook(tmp_path / "n.ipynb"), tmp_path / "runs"

    def run(**parameters: Any) -> Path:
        return notebooks.execute_cached(notebook, "smoke", parameters, cwd=tmp_path, progress=False)

    first = run()
    content = first.read_bytes()
    assert run() == first
    assert run(sparsity=0.9) == first  # the default, said aloud
    assert runs.read_text() == "x"
    assert run(sparsity=0.8) != first
    assert runs.read_text() == "xx"
    first.write_bytes(content.replace(b"smoke", b"smoky"))
    assert run() == first
    assert first.read_bytes() == content
    assert len(list(first.parent.glob("*.corrupt"))) == 1
    this_package_is(monkeypatch, "another package")
    assert run() != first
    assert runs.read_text() == "xxxx"


def test_the_key_follows_cells_parameters_and_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    notebook = tiny_notebook(tmp_path / "n.ipynb")
    key = notebooks.executed_key(notebook, {})
    assert key == notebooks.executed_key(notebook, {"sparsity": 0.9})
    assert key != notebooks.executed_key(notebook, {"sparsity": 0.8})
    tiny_notebook(notebook, last="print(sparsity)")
    assert key != notebooks.executed_key(notebook, {})
    tiny_notebook(notebook)
    assert key == notebooks.executed_key(notebook, {})
    this_package_is(monkeypatch, "another package")
    assert key != notebooks.executed_key(notebook, {})


@pytest.mark.parametrize(
    "table", ["paper/fig5.csv", "results/cifar10/results.json", "results/barrier.json"]
)
def test_a_page_is_made_anew_when_a_recorded_number_changes(tmp_path: Path, table: str) -> None:
    notebook, path = tiny_notebook(tmp_path / "notebooks" / "n.ipynb"), tmp_path / "book" / table
    before = notebooks.executed_key(notebook, {})
    path.parent.mkdir(parents=True)
    path.write_text("76.6")
    written = notebooks.executed_key(notebook, {})
    path.write_text("76.7")
    assert len({before, written, notebooks.executed_key(notebook, {})}) == 3


def test_notebooks_are_executed_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two pages that each wait for the other's file end only if both run, on half of the cores."""
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 6)
    root = small_book(tmp_path)
    (root / "_toc.yml").write_text(
        "format: jb-book\nroot: book/intro\nchapters:\n  - file: notebooks/04_method\n  - file: notebooks/05_other\n"
    )
    for name, mine, other in (("04_method", "one", "two"), ("05_other", "two", "one")):
        wait = (
            "import os, time\nfrom pathlib import Path\nassert os.environ['OMP_NUM_THREADS'] == '3'\n"
            f"Path('{mine}').touch()\nend = time.monotonic() + 60\n"
            f"while not Path('{other}').exists():\n    assert time.monotonic() < end\n    time.sleep(0.01)"
        )
        tiny_notebook(root / "notebooks" / f"{name}.ipynb", last=wait)
    here = Path.cwd()
    index = build.build("smoke", tmp_path / "out", root=root, progress=False, jobs=2)
    assert Path.cwd() == here
    assert (index.parent / "notebooks" / "05_other.html").exists()


def test_as_many_notebooks_as_cores_are_executed_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One bar counts them, and theirs aren't drawn."""
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    root = small_book(tmp_path)
    got: list[tuple[str | None, bool]] = []

    def execute(page: Path, *_: Any, progress: bool, **__: Any) -> Path:
        got.append((os.environ.get("OMP_NUM_THREADS"), progress))
        return page

    monkeypatch.setattr(build, "execute_cached", execute)
    monkeypatch.setattr(build, "render", lambda out, state: None)
    for cores in (1, 2, 16):
        monkeypatch.setattr(torch, "get_num_threads", lambda cores=cores: cores)
        build.build("smoke", tmp_path / "out", root=root)
    # 16 cores for four notebooks.
    assert got == [(None, True), ("1", False), ("4", False)]
    assert capsys.readouterr().err.count("1/1") == 2


def test_an_error_of_ours_keeps_its_exit_code(tmp_path: Path) -> None:
    last = "from lotperm.errors import DivergedError\nraise DivergedError('loss is nan at step 3')"
    notebook = tiny_notebook(tmp_path / "n.ipynb", last=last)
    with pytest.raises(
        LotpermError, match="cell 4 failed: DivergedError: loss is nan at step 3"
    ) as caught:
        notebooks.execute(notebook, tmp_path / "out.ipynb", cwd=tmp_path, progress=False)
    assert caught.value.exit_code == 4
    assert not (tmp_path / "out.ipynb").exists()


def test_sphinx_renders_with_the_package_that_builds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where it comes from a path of the environment: that path isn't lost to the extensions'."""
    monkeypatch.setenv("PYTHONPATH", "/here/first")
    sphinx._run([sys.executable, "-c", "import os; print(os.environ['PYTHONPATH'])"], tmp_path)
    extensions, own = (tmp_path / "sphinx.log").read_text().strip().split(os.pathsep)
    assert extensions.endswith("_extensions") and own == "/here/first"
