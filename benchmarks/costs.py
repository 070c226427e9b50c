"""Measure what each page of the book costs in time, memory and disk, computed and from the store.

It executes the notebooks in the order of the book, each in a kernel of its own, with one store: a
page that shares stages with an earlier one pays only for its own. With ``--jobs``, it also builds the
whole book from an empty store with so many notebooks at once, which divide the cores. It writes
book/results/costs.{json,md}. What isn't measured this time stays as it was, if it is of this machine.

    python benchmarks/costs.py                     # half an hour on two cores
    python benchmarks/costs.py --no-pages --jobs 2
    python benchmarks/costs.py --quick             # one page at smoke: checks that it runs
"""

from __future__ import annotations

import argparse
import os
import resource
import tempfile
import time
from pathlib import Path
from typing import Any

from common import RESULTS, earlier, environment, write_report

from lotperm.config.profiles import DEFAULT_PROFILE, current_profile
from lotperm.site.build import build
from lotperm.site.notebooks import execute

ROOT = Path(__file__).parents[1]


def size(folder: Path) -> int:
    """Return the number of bytes in all files of a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def measure(notebook: Path, profile: str, home: Path) -> dict[str, Any]:
    """Execute one notebook twice; return the seconds of both, and MiB added to the store."""
    before, seconds = size(home) if home.exists() else 0, []
    # For the kernels, which are processes of their own.
    os.environ["LOTPERM_HOME"] = str(home)
    for _ in range(2):
        begin = time.perf_counter()
        given, out = {"profile": profile}, home.with_suffix(".ipynb")
        execute(notebook, out, given, cwd=ROOT, progress=False)
        seconds.append(time.perf_counter() - begin)
    return {
        "page": notebook.stem,
        "seconds": seconds[0],
        "seconds_again": seconds[1],
        "store_mib": (size(home) - before) / 2**20,
    }


def whole(profile: str, jobs: int) -> dict[str, Any]:
    """Build the book from an empty store with several notebooks at once; return the seconds."""
    with tempfile.TemporaryDirectory() as folder:
        os.environ["LOTPERM_HOME"] = str(Path(folder) / "home")
        begin = time.perf_counter()
        build(profile, Path(folder) / "out", root=ROOT, progress=False, jobs=jobs)
        return {"jobs": jobs, "seconds": time.perf_counter() - begin}


def main() -> None:
    """Measure and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--profile", default=DEFAULT_PROFILE, type=current_profile)
    parser.add_argument(
        "--quick", action="store_true", help="one page at smoke, to see that it runs"
    )
    parser.add_argument("--pages", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--jobs", type=int, nargs="*", default=[], help="whole books to build, too")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    profile = "smoke" if options.quick else options.profile
    notebooks = sorted((ROOT / "notebooks").glob("*.ipynb"))
    if options.quick:
        notebooks = [path for path in notebooks if path.stem.startswith("03")]
    path = options.out / "costs"
    report: dict[str, Any] = {
        "what": f"the notebooks at the profile {profile}, in this order, from an empty store",
        "command": f"python benchmarks/costs.py --profile {profile}",
        "rows": [],
        "books": [],
        "peak_mib": 0.0,
    }
    before = earlier(path)
    if before.get("what") == report["what"]:
        report |= {key: before[key] for key in ("rows", "books", "peak_mib") if key in before}

    # Written after every page: if this is stopped, what was measured isn't lost.
    def keep(key: str, name: str, new: dict[str, Any]) -> None:
        report[key] = [row for row in report[key] if row[name] != new[name]] + [new]
        report[key].sort(key=lambda row: row[name])
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
        report["peak_mib"] = max(report["peak_mib"], peak)
        report["machine"] = environment()
        write_report(path, report, table(report))

    with tempfile.TemporaryDirectory() as folder:
        for notebook in notebooks if options.pages else []:
            keep("rows", "page", measure(notebook, profile, Path(folder) / "home"))
    for jobs in options.jobs:
        keep("books", "jobs", whole(profile, jobs))


def table(report: dict[str, Any]) -> str:
    """Write the report as Markdown."""
    machine = report["machine"]
    lines = [
        f"# Cost of {report['what']}",
        "",
        f"`{report['command']}`, on {machine['cpu']}, {machine['cores']} cores, PyTorch {machine['torch']}, "
        f"load {machine['load_1min']:.1f} at the end.",
        "A page that shares stages with one before it pays for its own alone. The largest process took "
        f"{report['peak_mib']:,.0f} MiB.",
        "",
        "| page | seconds | seconds again, from the store | new in the store (MiB) |",
        "| --- | --- | --- | --- |",
    ]
    for row in report["rows"]:
        lines.append(
            f"| {row['page']} | {row['seconds']:.0f} | {row['seconds_again']:.0f} | {row['store_mib']:.1f} |"
        )
    total = [
        sum(row[name] for row in report["rows"])
        for name in ("seconds", "seconds_again", "store_mib")
    ]
    lines.append(f"| all | {total[0]:.0f} | {total[1]:.0f} | {total[2]:.1f} |")
    for book in report["books"]:
        minutes, jobs = book["seconds"] / 60, book["jobs"]
        lines += [
            "",
            f"`lotperm book --jobs {jobs}`, from an empty store and with the site: {minutes:.0f} minutes.",
        ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
