"""Run the long version of the tests of faults, and write the table that the book shows.

The groups run one after the other. What each has tried is kept in _build/faults, so that the whole
can be stopped and resumed; a group is run again when the package or the number of kills has
changed. book/results/faults.{json,md} is written from the groups that passed.

    python tests/faults/record.py              # all groups, then the table
    python tests/faults/record.py crash        # this one, then the table
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

FAULTS = Path(__file__).parent
ROOT = FAULTS.parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

from common import RESULTS, environment  # noqa: E402

from lotperm.store.provenance import source_hash  # noqa: E402

GROUPS = ("crash", "corruption", "concurrency", "parameters", "hostile", "resources", "numbers")


def run(group: str, kept: Path, kills: int) -> bool:
    """Run a group unless that was done; return whether it passed."""
    if kept.exists():
        before = json.loads(kept.read_text())
        if (before["source"], before["kills"]) == (source_hash(), kills):
            return True
    rows = kept.with_suffix(".rows")
    rows.unlink(missing_ok=True)
    variables = {
        **os.environ,
        "LOTPERM_FAULTS": str(kills),
        "LOTPERM_FAULTS_ROWS": str(rows),
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(ROOT),
    }
    source, began = source_hash(), time.monotonic()
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "--tb=short",
        "--show-capture=no",
        FAULTS / f"test_{group}.py",
    ]
    if subprocess.run(command, cwd=ROOT, env=variables, check=False).returncode:
        return False
    report = {
        "group": group,
        "kills": kills,
        "source": source,
        "seconds": round(time.monotonic() - began),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "rows": json.loads(rows.read_text()),
    }
    kept.write_text(json.dumps(report, indent=1) + "\n")
    return True


def table(report: dict[str, Any]) -> str:
    """Return the rows as Markdown."""
    machine, groups = report["machine"], report["groups"]
    total = sum(row["tried"] for group in groups for row in group["rows"])
    sources = {group["source"][:12] for group in groups}
    lines = [
        "# Faults, how often they were tried, and what came of it",
        "",
        f"`make faults`, on {machine['cpu']}, {machine['cores']} cores, Python {machine['python']}, PyTorch "
        f"{machine['torch']}, {max(group['date'] for group in groups)}; sources {', '.join(sorted(sources))}. "
        f"{total:,} trials in {sum(group['seconds'] for group in groups) / 60:.0f} minutes.",
        *([f"Not run: {', '.join(report['missing'])}."] if report["missing"] else []),
        "",
        "| group | fault | tried | outcome |",
        "| --- | --- | --- | --- |",
    ]
    for group in groups:
        lines += [
            f"| {row['group']} | {row['fault']} | {row['tried']:,} | {row['outcome']} |"
            for row in group["rows"]
        ]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Run what was asked for and write the table of all that passed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "groups", nargs="*", default=GROUPS, metavar="GROUP", help=", ".join(GROUPS)
    )
    parser.add_argument(
        "--kills", type=int, default=500, help="the size of everything; 500 is the long version"
    )
    parser.add_argument("--out", type=Path, default=RESULTS / "faults")
    options = parser.parse_args()
    folder = ROOT / "_build" / "faults"
    folder.mkdir(parents=True, exist_ok=True)
    failed = [
        group for group in options.groups if not run(group, folder / f"{group}.json", options.kills)
    ]
    groups = [
        json.loads(path.read_text())
        for group in GROUPS
        if (path := folder / f"{group}.json").exists()
    ]
    groups = [g for g in groups if g["group"] not in failed and g["kills"] == options.kills]
    if groups:
        found = {group["group"] for group in groups}
        report = {
            "what": "the long version of the tests of faults",
            "command": "make faults",
            "missing": [group for group in GROUPS if group not in found],
            "groups": groups,
            "machine": environment(),
        }
        options.out.with_suffix(".json").write_text(
            json.dumps(report, indent=1, ensure_ascii=False) + "\n"
        )
        options.out.with_suffix(".md").write_text(table(report))
    for group in failed:
        print(f"group {group} failed: it isn't in the table")
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
