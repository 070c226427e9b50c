"""The programs that tests start: what is tried again, and what isn't."""

from __future__ import annotations

from pathlib import Path

import pytest
import tools

# Dies as Node does by a fault of its own, as long as fewer marks than `deaths` are in the folder.
DIES = """
    const fs = require("fs"), [folder, deaths, signal] = process.argv.slice(1);
    const died = fs.readdirSync(folder).length;
    fs.writeFileSync(`${folder}/${died}`, "");
    if (died < Number(deaths)) process.kill(process.pid, signal);
    else process.stdout.write(JSON.stringify({ given: JSON.parse(fs.readFileSync(0, "utf8")), died }));
"""


def test_a_death_by_a_signal_is_tried_again(tmp_path: Path) -> None:
    found = tools.run_node(DIES, str(tmp_path), "2", "SIGKILL", given=[1, 2])
    assert found == {"given": [1, 2], "died": 2}


def test_deaths_without_end_fail(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="Node ended with -9"):
        tools.run_node(DIES, str(tmp_path), "9", "SIGKILL")
    assert len(list(tmp_path.iterdir())) == 3


def test_an_error_of_the_script_is_not_tried_again(tmp_path: Path) -> None:
    program = f'require("fs").appendFileSync("{tmp_path}/starts", "x"); throw new Error("wrong")'
    with pytest.raises(AssertionError, match="wrong"):
        tools.run_node(program)
    assert (tmp_path / "starts").read_text() == "x"
