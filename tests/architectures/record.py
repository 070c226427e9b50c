"""Write the table of architectures that the book shows, from the rows that were measured.

`make architectures` measures them (tests/architectures/test_architectures.py) and then runs this.
"""

from __future__ import annotations

import datetime
import json
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks"), str(ROOT / "tests")]

from architectures.measure import every  # noqa: E402
from common import RESULTS, environment  # noqa: E402

# Networks of torchvision 0.13.1 that the tables of Torch-Pruning's README name, as pruned or not.
PRUNED = (
    "alexnet", "vit_b_16", "vit_b_32", "convnext_tiny", "densenet121", "efficientnet_b0",
    "efficientnet_v2_s", "googlenet", "inception_v3", "mnasnet1_0", "mobilenet_v2",
    "mobilenet_v3_large", "regnet_y_400mf", "resnet18", "resnet50", "resnext50_32x4d",
    "wide_resnet50_2", "fcn_resnet50", "deeplabv3_mobilenet_v3_large", "lraspp_mobilenet_v3_large",
    "squeezenet1_1", "vgg11", "vgg16_bn", "shufflenet_v2_x1_0",
)  # fmt: skip
NOT_PRUNED = ("swin_t",)


def collect(kept: Path) -> tuple[list[dict[str, Any]], list[str]]:
    """Return the rows in the order of the list, and the names of those that weren't measured."""
    rows, missing = [], []
    for _, name, _ in every():
        file = kept / f"{name}.json"
        if file.exists():
            rows.append(json.loads(file.read_text()))
        else:
            missing.append(name)
    return rows, missing


def table(report: dict[str, Any]) -> str:
    """Return the rows as Markdown."""
    machine, rows = report["machine"], report["rows"]
    sources = ", ".join(dict.fromkeys(row["source"][:12] for row in rows))
    cpus = " and ".join(dict.fromkeys(row["cpu"] for row in rows))
    lines = [
        "# Architectures",
        "",
        f"`{report['command']}`, on {cpus}, Python {machine['python']}, PyTorch "
        f"{machine['torch']}, torchvision {report['torchvision']}, timm {report['timm']}, "
        f"transformers {report['transformers']}, {report['date']}; sources {sources}.",
        "",
        "| network | groups | units | heads | fixed, by | change of f | copy found | seconds "
        "| Torch-Pruning |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    library = ""
    for row in rows:
        if row["library"] != library:
            library = row["library"]
            lines.append(f"| **{library}** | | | | | | | | |")
        lines.append(f"| {' | '.join(cells(row))} |")
    if report["missing"]:
        lines += ["", f"Not measured in this run: {', '.join(report['missing'])}."]
    return "\n".join(lines) + "\n"


def cells(row: dict[str, Any]) -> list[str]:
    """Return one row of the table."""
    name = row["name"]
    other = "yes" if name in PRUNED else "no" if name in NOT_PRUNED else "–"
    if row["library"] != "torchvision":
        other = "–"
    if not row["traced"]:
        return [name, *["–"] * 3, row["error"], *["–"] * 3, other]
    by = ", ".join(f"{key.removeprefix('aten.').partition('.')[0]} {n:,}" if key != "output"
                   else f"output {n:,}" for key, n in row["by"].items())  # fmt: skip
    share = row["recovered"] / max(row["shown"], 1)
    found = "all" if share == 1 else f"{100 * share:.1f} %"
    return [
        name,
        f"{row['groups']:,}",
        f"{row['units']:,}",
        f"{row['heads']:,}" if row["heads"] else "–",
        by or "none",
        f"{row['deviation']:.0e}",
        found,
        f"{row['seconds']:.1f}",
        other,
    ]


def main() -> None:
    """Write book/results/architectures.{json,md}."""
    rows, missing = collect(ROOT / "_build" / "architectures")
    report = {
        "command": "make architectures",
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "machine": environment(),
        "torchvision": version("torchvision"),
        "timm": version("timm"),
        "transformers": version("transformers"),
        "rows": rows,
        "missing": missing,
    }
    (RESULTS / "architectures.json").write_text(json.dumps(report, indent=1) + "\n")
    (RESULTS / "architectures.md").write_text(table(report))


if __name__ == "__main__":
    main()
