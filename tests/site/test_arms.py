"""The scripts of the site start their arms from what the package says."""

from __future__ import annotations

from pathlib import Path

import pytest
import tools

from lotperm.studies.arms.arms import ARMS, PAPER_ARMS

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("script", "fields"),
    [
        ("lotperm/site/js/landscape.js", ("weights", "mask")),
        ("book/panels/lottery.js", ("weights", "mask", "stream")),
    ],
)
def test_a_scripts_arms_are_the_packages(script: str, fields: tuple[str, ...]) -> None:
    program = "process.stdout.write(JSON.stringify(require(process.argv[1]).ARMS))"
    wanted = {name: {field: getattr(ARMS[name], field) for field in fields} for name in PAPER_ARMS}
    assert tools.run_node(program, str(ROOT / script)) == wanted
