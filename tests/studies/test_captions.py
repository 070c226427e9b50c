"""Captions end with what the numbers come to: other numbers, other words."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import matplotlib as mpl
import pandas as pd
import pytest
import torch

mpl.use("Agg")

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from lotperm.site import landscape
from lotperm.studies import charts, findings
from lotperm.studies.arms import charts as arms_charts
from lotperm.studies.attention import charts as attention
from lotperm.studies.basin import charts as basin
from lotperm.studies.causal import charts as causal
from lotperm.studies.connectivity import charts as connectivity
from lotperm.studies.control import charts as control
from lotperm.studies.diversity import charts as diversity
from lotperm.studies.many import charts as many
from lotperm.studies.matchers import charts as matchers
from lotperm.studies.numbers import number
from lotperm.studies.origin import description, finding
from lotperm.studies.published import book_folder
from lotperm.studies.relearning import charts as relearning
from lotperm.studies.signs import charts as signs
from lotperm.studies.signs.measures import by_arm as by_sign_arm

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"


@pytest.fixture(autouse=True)
def _no_figure_stays():
    yield
    plt.close("all")


def record(name: str) -> pd.DataFrame:
    return pd.read_csv(book_folder() / "results" / name / "results.csv")


def one_cell(table: pd.DataFrame) -> pd.DataFrame:
    s, k = table[["sparsity", "rewind_epoch"]].iloc[-1]
    return table[(table["sparsity"] == s) & (table["rewind_epoch"] == k)]


def mean(table: pd.DataFrame, column: str, **where: object) -> float:
    for name, value in where.items():
        table = table[table[name] == value]
    assert len(table)
    return float(table[column].mean())


def arm(name: str, words: str) -> Callable[[pd.DataFrame], str]:
    """Return an arm's mean accuracy as a caption has it."""
    return lambda t: f"{words} {100 * mean(t, 'accuracy', arm=name):.1f}"


def _many(table: pd.DataFrame) -> Figure:
    from lotperm.studies.origin import conclude

    return conclude(many.against_cost(table, title=""), many.largest(table))


def _halfway(table: pd.DataFrame) -> str:
    middle = mean(table, "accuracy", ends="permuted", repair="bn", alpha=0.5)
    return f"{100 * middle:.1f} from π(A) to B"


def _nearness(table: pd.DataFrame) -> str:
    return f"LTH {100 * mean(table, 'disagreement', network='lth', reference='imp'):.1f}"


def _together(table: pd.DataFrame) -> str:
    last = table[table["members"] == table["members"].max()]
    return f"permuted at k {100 * mean(last, 'accuracy', method='permuted at k'):.1f}"


def _gain_of_all(table: pd.DataFrame) -> str:
    gained = table.set_index("method")["ensemble_accuracy"] - table.set_index("method")["mean"]
    return f"permuted {number(100 * gained['permuted'])}"


def _best_matching(table: pd.DataFrame) -> str:
    gains = table.groupby("arm")["accuracy"].mean().drop("lth")
    best = str(gains.idxmax())
    points = 100 * (gains[best] - gains["naive"])
    return f"{matchers.words_of(best)} gains most, {number(points)} points"


CASES: dict[str, tuple[str, str, Callable[[pd.DataFrame], Figure], Callable[[pd.DataFrame], str]]] = {
    "known": ("causal_mlp_mnist1d", "accuracy", lambda t: causal.known(t, title=""), arm("lth", "LTH")),
    "dose": (
        "causal_mlp_mnist1d", "accuracy", lambda t: causal.dose_response(t, title=""),
        lambda t: f"to {100 * mean(t, 'accuracy', arm='B, 100% scrambled'):.1f} at 100 %",
    ),
    "matchers": (
        "matchers_mlp_mnist1d", "accuracy",
        lambda t: matchers.gain_against(t, "barrier", "", title=""), _best_matching,
    ),
    "signs": (
        "signs_mlp_mnist1d", "accuracy", lambda t: signs.accuracies(t, title=""),
        lambda t: f"permuted {by_sign_arm(t[t['ticket'] == 'own'])['permuted'].mean():.1f}",
    ),
    "attention": (
        "attention_vit_mnist1d", "accuracy", lambda t: attention.accuracies(t, title=""),
        arm("random", "random mask on B"),
    ),
    "likeness": (
        "attention_vit_mnist1d", "keys", lambda t: attention.likeness(t, title=""),
        lambda t: "by activations " + number(
            sum(mean(t, kind, arm="permuted") for kind in attention.KINDS) / len(attention.KINDS), 2
        ),
    ),
    "many": ("many_mlp_mnist1d", "accuracy", _many, _together),
    "nearness": (
        "desktop_relearning_mlp_fashion_mnist", "disagreement",
        lambda t: relearning.nearness(t, title=""), _nearness,
    ),
    "ensembles": (
        "fashion_ensembles", "ensemble_accuracy", lambda t: diversity.diversity(t, title=""), _gain_of_all,
    ),
    "line": (
        "fashion_lines_x1", "accuracy", lambda t: connectivity.connectivity(t, "accuracy", title=""), _halfway,
    ),
}  # fmt: skip
"""What is drawn -> record, the column that is changed, how it is drawn, what the caption must have."""


@pytest.mark.parametrize("name", CASES)
def test_a_caption_has_the_numbers_that_are_drawn(name: str) -> None:
    source, column, draw, words = CASES[name]
    table = record(source)
    if "rewind_epoch" in table:
        table = one_cell(table)
    said = finding(draw(table))
    assert words(table) in said
    other = table.assign(**{column: 0.9 * table[column]})
    changed = finding(draw(other))
    assert words(other) in changed and words(other) != words(table)
    assert words(table) not in changed


def test_what_is_best_comes_first() -> None:
    table = one_cell(record("causal_mlp_mnist1d"))
    said = finding(causal.known(table, title=""))
    assert said.index("LTH") < said.index("naive")
    swapped = table.assign(arm=table["arm"].replace({"lth": "naive", "naive": "lth"}))
    said = finding(causal.known(swapped, title=""))
    assert said.index("naive") < said.index("LTH")


def test_whose_basin_follows_the_barriers() -> None:
    table = one_cell(record("signs_mlp_mnist1d").query("rewind_epoch == 0"))
    ends = {
        "accuracy_barrier": "accuracy_barrier_permuted",
        "accuracy_barrier_permuted": "accuracy_barrier",
    }
    said, turned = (
        finding(signs.whose_basin(t, title="")) for t in (table, table.rename(columns=ends))
    )
    own, copy = (
        re.search(rf"earer to {end} are ([^.]*)", said)
        for end in ("A's ticket", "the permuted ticket")
    )
    assert own and copy and own[1] != copy[1]
    assert f"nearer to A's ticket are {copy[1]}." in turned


def test_barriers_of_rounds_and_of_the_plane() -> None:
    table = record("live_basin_resnet8_mnist1d")
    said = finding(basin.against_round(table, title=""))
    assert re.search(r"nothing repaired, [\d.]+ points with \d+ % removed", said)
    flat = finding(basin.against_round(table.assign(accuracy=0.5), title=""))
    assert "nothing repaired, 0.0 points" in flat
    places = pd.read_csv(book_folder() / "results" / "live_basin_resnet8_mnist1d" / "plane.csv")
    corners = {
        c: (x, y) for c, x, y in places.dropna(subset="corner")[["corner", "x", "y"]].to_numpy()
    }
    grid = places[places["corner"].isna()]
    said = finding(basin.plane(grid, corners, title=""))
    assert f"between {100 * grid['error'].min():.1f} and {100 * grid['error'].max():.1f} %" in said
    worse = finding(basin.plane(grid.assign(error=0.5 * grid["error"]), corners, title=""))
    assert f"and {50 * grid['error'].max():.1f} %" in worse


def test_captions_of_the_arms() -> None:
    seen = {"lth": [0.6, 0.62], "naive": [0.4, 0.42]}
    figure = arms_charts.accuracy_by_method(seen, title="")
    assert finding(figure) == "From best to worst: LTH 61.0, naive 41.0 %."
    weights = [torch.ones(3, 2), torch.ones(2, 3)]
    networks = dict.fromkeys(("a_start", "b_start", "dense_a", "imp", "lth", "naive"), weights)
    mask = [w.bool() for w in weights]
    for lth, words in (
        (0.6, "19.0 points above"),
        (0.3, "11.0 points below"),
        (0.41, "as high as"),
    ):
        accuracies = {"dense_a": 0.7, "imp": 0.6, "lth": lth, "naive": 0.41}
        drawn = control.sparse_training_problem(networks, mask, accuracies, title="")
        assert f"LTH ends {words} naive" in finding(drawn)
    masks = [
        {"fc.weight": torch.tensor([[True, False]]), "out.weight": torch.tensor([[True, True]])}
    ]
    said = finding(charts.density_per_layer(masks, title=""))
    assert "of out, 100.0 %" in said and "of fc, 50.0 %" in said
    one, other = torch.tensor([[True, True, False]]), torch.tensor([[True, False, True]])
    assert "Of 2 dark places on the left, 1 are" in finding(
        charts.mask_images({"a": one, "b": other}, title="")
    )
    turned = charts.correlation_before_after(torch.eye(2).flip(0), torch.tensor([1, 0]), title="")
    assert finding(turned) == "The mean of the diagonal is 0.00 before and 1.00 after."


def test_the_landscape_is_told_by_its_end() -> None:
    methods = charts.METHODS
    scene = landscape.Scene((2.0, -0.4), (0.6, -1.3), (-1.0, 0.4), 0.1, 130, 0)
    drawn = landscape.figure3(scene, methods)
    assert "mask keeps w0" in finding(drawn) and "naive 1.000" in finding(drawn)
    assert "naive: B, mask from (−1.00, 0.00) to (−0.40, 0.00), loss 1.000" in description(drawn)
    same = landscape.Scene((2.0, -0.4), (0.6, -1.3), (0.6, -1.3), 0.1, 130, 0)
    assert "naive 0.040" in finding(landscape.figure3(same, methods))
    assert "highest for naive, at 1.000" in finding(landscape.curves(scene, methods))
    assert "highest for naive" not in finding(landscape.curves(same, methods))


def test_names_with_commas_are_told_apart() -> None:
    values = {"permuted, A's signs": 2.0, "naive: B": [1.0, 0.0]}
    assert findings.ranked(values) == "permuted, A's signs 2.0; naive 0.5 %"
    assert findings.each([("nothing", "x"), ("REPAIR", "y")]) == "Nothing: x. REPAIR: y."


def test_a_gain_that_rounds_to_nothing_is_none() -> None:
    assert findings.gain([0.4, 0.42], [0.4, 0.46]) == "as high as"
    assert findings.gain([1.0, 2.0], [3.0, 4.0]) == "2.0 points below"


COMPARING = re.compile(
    r"\b(better|worse|best|worst|higher|lower|highest|lowest|above|rises?|falls?|fall|stays?|equally|alike|more than)\b"
)


def test_what_notebooks_say_of_a_figure_cant_be_contradicted_by_it() -> None:
    """Fixed words say how to read a figure; what comes out is computed."""
    found = []
    for path in sorted(NOTEBOOKS.glob("*.ipynb")):
        for cell in json.loads(path.read_text())["cells"]:
            shown = cell["metadata"].get("mystnb", {})
            for words in (
                shown.get("figure", {}).get("caption", ""),
                shown.get("image", {}).get("alt", ""),
            ):
                if COMPARING.search(re.sub("where it is higher|figure above", "", words)):
                    found.append((path.name, words))
    assert found == []


def test_the_answer_on_barriers_follows_the_lines() -> None:
    from lotperm.studies.page import open_page

    page = open_page("mode_connectivity", "smoke")
    rows = [
        {"seed": s, "ends": e, "repair": "bn", "alpha": a, "loss": 1.0,
         "accuracy": 0.8 - 4 * a * (1 - a) * (depth[e] + 0.01 * s)}
        for depth in ({"as trained": 0.3, "permuted": 0.1},)
        for s in (0, 1, 2) for e in depth for a in (0, 0.5, 1)
    ]  # fmt: skip
    lines = pd.DataFrame(rows)
    page.lines = [lines] * len(page.experiments)
    said = re.findall(r"<li>(.*?)</li>", page.answer("So?").data)[0]
    assert "live, MNIST-1D" in said and "p &lt; 0.001" in said
    assert "verdict-agrees" in said and "lowers the barrier by 20.00 points" in said
    assert "11.0 points are left" in said
    turned = lines.assign(
        ends=lines["ends"].replace({"as trained": "permuted", "permuted": "as trained"})
    )
    page.lines = [turned] * len(page.experiments)
    data = page.answer("So?").data
    assert "barrier by −20.00 points" in data and "verdict-opposite" in data
    # Recorded lines are there, too.
    assert data.count("recorded, ") == 8


def test_the_answer_on_ensembles_follows_the_members() -> None:
    from lotperm.studies.page import open_page

    page = open_page("diversity", "smoke")
    columns = {"mean": 0.5, "spread": 0.01, "kl": 0.1, "js": 0.1, "members": 3}
    rows = [
        {"method": "lth", "ensemble_accuracy": 0.5, "disagreement": 0.1, **columns},
        {"method": "permuted", "ensemble_accuracy": 0.7, "disagreement": 0.35, **columns},
    ]
    page.table = pd.DataFrame(rows)
    data = page.answer("So?").data
    *_, live, _, smoke = re.findall(r"<li>(.*?)</li>", data)
    assert "live, MNIST-1D" in live and "verdict-agrees" in live
    assert "disagreement 25.0, ensemble 20.00 points" in live
    assert "for tests" in smoke
    page.table = pd.DataFrame(rows).assign(method=["permuted", "lth"])
    data = page.answer("So?").data
    assert "disagreement −25.0, ensemble −20.00 points" in data and "verdict-opposite" in data
    # The paper's two networks, and what is recorded.
    assert data.count("paper, Table 1, ") == 2 and data.count("recorded, ") == 4
