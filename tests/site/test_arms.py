"""The scripts of the site start their arms from what the package says."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from lotperm.studies.arms.arms import ARMS, PAPER_ARMS

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("script", "fields"),
    [
        ("lotperm/site/js/landscape.js", ("weights", "mask")),
        ("book/panels/lottery.js", ("weights", "mask", "stream")),
    ],
)
def test_a_scripts_arms_are_the_packages(node: str, script: str, fields: tuple[str, ...]) -> None:
    program = "process.stdout.write(JSON.stringify(require(process.argv[1]).ARMS))"
    done = subprocess.run(
        [node, "-e", program, str(ROOT / script)], capture_output=True, text=True, check=True
    )
    wanted = {name: {field: getattr(ARMS[name], field) for field in fields} for name in PAPER_ARMS}
    assert json.loads(done.stdout) == wanted
