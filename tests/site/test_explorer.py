"""The explorer of a mask shows the mask, the permutation and the correlations that it is given."""

from __future__ import annotations

import json
import re
from pathlib import Path

import tools
import torch

from lotperm.site import explorer

SCRIPT = Path(explorer.__file__).parent / "js" / "explorer.js"
MASK = torch.tensor([[1, 0, 0], [1, 1, 1], [0, 0, 0], [0, 1, 1]], dtype=torch.bool)
PERMUTATION = {"out": torch.tensor([2, 0, 3, 1]), "in": torch.tensor([1, 2, 0])}
CORRELATIONS = {"out": torch.linspace(-1, 1, 16).reshape(4, 4), "in": torch.eye(3)}


def made() -> dict[str, str]:
    return explorer.mask_explorer("fc2", MASK, PERMUTATION, ("out", "in"), CORRELATIONS)


def data() -> dict[str, object]:
    found = re.search(r"mount\(element, (.*)\);", made()["text/html"])
    assert found is not None
    carried: dict[str, object] = json.loads(found[1])
    return carried


def run(program: str) -> object:
    text = f"const s = require({json.dumps(str(SCRIPT))}), data = {json.dumps(data())};"
    return tools.run_node(f"{text}process.stdout.write(JSON.stringify((() => {{{program}}})()))")


def test_the_page_carries_what_was_given() -> None:
    carried = data()
    assert carried["mask"] == "100111000011"
    assert carried["rows"]["permutation"] == [2, 0, 3, 1]  # type: ignore[index]
    # At each place of B stands the correlation with the unit of A that moves there.
    wanted = [float(CORRELATIONS["out"][place, unit]) for place, unit in enumerate([2, 0, 3, 1])]
    assert all(
        abs(a - b) < 1e-4
        for a, b in zip(carried["rows"]["correlations"], wanted, strict=True)  # type: ignore[index]
    )
    assert "://" not in made()["text/html"]


def test_a_permuted_mask_is_the_packages() -> None:
    """Units at their places draw π(m): row and column of each weight are where `permute` puts it."""
    places = run("return [s.places(data.rows, true), s.places(data.columns, true)]")
    rows, columns = places  # type: ignore[misc]
    drawn = torch.zeros_like(MASK)
    for i in range(4):
        for j in range(3):
            drawn[rows[i], columns[j]] = MASK[i, j]
    assert torch.equal(drawn, MASK[PERMUTATION["out"]][:, PERMUTATION["in"]])
    assert run("return s.places(data.rows, false)") == [0, 1, 2, 3]


def test_units_are_sorted_and_told_apart() -> None:
    assert run("return s.counts(data).rows") == [1, 3, 0, 2]
    assert run("return s.places(data.rows, false, s.counts(data).rows)") == [2, 0, 3, 1]
    said = run("return s.words(data, 3)")
    # Unit 3 of A stands at place 2 of B.
    assert said == (
        f"Unit 3 of A plays unit 2 of B: their activations correlate by {float(CORRELATIONS['out'][2, 3]):.2f}. "
        "The mask keeps 2 of its 3 weights."
    )
