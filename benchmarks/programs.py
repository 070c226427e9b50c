"""Measure what compiling a training step costs, cold and where compiled programs are kept.

For each network, it takes the CPU seconds (of the process and the compilers that it starts) until a
training of three steps has its program, and until it ends:

- cold: a new process, with an empty folder of compiled programs;
- the next stage of that process, with other weights;
- a new process that finds the folder: what a campaign that is resumed, or a notebook, pays.

The table also shows what a stage saves: CPU seconds of a step, plain and compiled. A gate requires
that the losses of all three are the same, bit for bit.

With ``--pages``, it also measures a whole page of the book, from an empty store: CPU seconds of its
stages, plain, compiled cold, and compiled where the programs are kept.

Rows of networks and pages that aren't measured this time stay as they were.

    python benchmarks/programs.py
    python benchmarks/programs.py --networks mlp --pages resnet20_cifar100
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import torch
from common import RESULTS, earlier, environment, write_report
from torch import nn

from lotperm.config.choices import Precision
from lotperm.config.experiment import Recipe
from lotperm.config.seeds import Seeds
from lotperm.data.dataset import Dataset, Split
from lotperm.engine import run as engine_run
from lotperm.engine.models import build, initialize
from lotperm.engine.runtime import Runtime
from lotperm.engine.training import train
from lotperm.store.stages import Store
from lotperm.studies.parameters import page_parameters
from lotperm.studies.pipeline import Pipeline

NETWORKS: dict[str, tuple[str, float, tuple[int, ...], int, Precision]] = {
    "mlp": ("mlp", 1.0, (1, 40), 8, "float32"),
    # As on a page of the book.
    "resnet8 on signals": ("resnet8", 1.0, (1, 40), 6, "bfloat16"),
    "resnet8x0.5": ("resnet8", 0.5, (3, 32, 32), 4, "bfloat16"),
    "resnet20x1": ("resnet20", 1.0, (3, 32, 32), 1, "bfloat16"),
}
"""Name -> architecture, width, shape of an example, networks at once, precision."""


def cpu_seconds() -> float:
    """Return the CPU seconds of this process so far, and of its children that have ended."""
    spent = os.times()
    return spent.user + spent.system + spent.children_user + spent.children_system


def stage(name: str, first: int, *, compile: bool = True, steps: int = 3) -> dict[str, Any]:
    """Train networks for a few steps; return the seconds, and the losses as text."""
    model, width, shape, members, precision = NETWORKS[name]
    draw = torch.Generator().manual_seed(0)
    make: partial[nn.Module] = partial(
        build, model, input_shape=shape, classes=10, width=width, hidden=(128, 128)
    )
    pixels = torch.randint(256, (128 * steps, *shape), dtype=torch.uint8, generator=draw)
    split = Split(pixels, torch.randint(10, (128 * steps,), generator=draw))
    half = torch.full((shape[0],), 0.5)
    data = Dataset("noise", split, split, 10, half, half)
    recipe = Recipe(epochs=1, lr=0.01, precision=precision)
    seconds: dict[str, float] = {}
    prepare = engine_run.Run.prepare

    def timed(run: engine_run.Run, threads: int) -> None:
        begin = cpu_seconds()
        prepare(run, threads)
        seconds["program"] = seconds.get("program", 0.0) + cpu_seconds() - begin

    engine_run.Run.prepare = timed  # type: ignore[method-assign, assignment]
    begin = cpu_seconds()
    try:
        done = train(
            make(),
            [initialize(make, first + i) for i in range(members)],
            data,
            recipe,
            [Seeds.of("programs", i) for i in range(members)],
            evaluate_at=(),
            runtime=Runtime(compile=compile),
        )
    finally:
        engine_run.Run.prepare = prepare  # type: ignore[method-assign]
    if done.mode != ("compiled" if compile else "plain"):
        raise SystemExit(f"{name}: the step is {done.mode}.")
    seconds["all"] = cpu_seconds() - begin
    return {**seconds, "losses": repr(done.train_loss)}


def process(name: str, folder: Path | None, *options: str) -> Any:
    """Run this program in a new process with a folder of programs; return what it prints."""
    variables = {**os.environ, **({"TORCHINDUCTOR_CACHE_DIR": str(folder)} if folder else {})}
    command = [sys.executable, __file__, *options]
    done = subprocess.run(command, env=variables, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{name}: {done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def page(figure: str, profile: str, *, compile: bool) -> float:
    """Return the CPU seconds of a page's stages from an empty store, with the data there."""
    experiments, _ = page_parameters(figure, {"profile": profile})
    with tempfile.TemporaryDirectory() as folder:
        pipelines = [
            Pipeline(e, Store(Path(folder)), Runtime(compile=compile)) for e in experiments
        ]
        for pipeline in pipelines:
            _ = pipeline.data
        begin = cpu_seconds()
        for pipeline in pipelines:
            pipeline.run()
        return cpu_seconds() - begin


def measure_page(figure: str, profile: str) -> dict[str, Any]:
    """Measure one row of the table of pages."""
    told = ("--page", figure, "--profile", profile)
    with tempfile.TemporaryDirectory() as folder:
        programs = Path(folder)
        return {
            "figure": figure,
            "profile": profile,
            "cold": process(figure, programs, *told, "--compile"),
            "plain": process(figure, programs, *told),
            "warm": process(figure, programs, *told, "--compile"),
        }


def stages(name: str, steps: int) -> list[dict[str, Any]]:
    """Run a stage, one with other weights, the first again, and long ones, compiled and plain."""
    found = [stage(name, first) for first in (0, 100, 0)]
    return found + [stage(name, 0, compile=c, steps=steps) for c in (True, False)]


def measure(name: str, steps: int, *, quick: bool = False) -> dict[str, Any]:
    """Measure one row of the table; a quick one may find kept programs.

    Raises
    ------
    SystemExit
        If the same stage has other losses in another process.
    """
    with tempfile.TemporaryDirectory() as folder:
        told = ("--stages", name, "--steps", str(steps))
        cold, warm = (process(name, None if quick else Path(folder), *told) for _ in range(2))
    same = {found["losses"] for found in (cold[0], cold[2], warm[0], warm[2])}
    if len(same) != 1 or cold[1]["losses"] in same:
        raise SystemExit(f"{name}: a program that was kept computes something else: {same}")
    compiled, plain = (found["all"] / steps for found in cold[3:])
    return {
        "network": name,
        "members": NETWORKS[name][3],
        "cold": cold[0]["program"],
        "next_stage": cold[1]["program"],
        "new_process": warm[0]["program"],
        "step_compiled": compiled,
        "step_plain": plain,
        "pays_off_after": cold[0]["program"] / (plain - compiled) if plain > compiled else None,
    }


def main() -> None:
    """Measure and write the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="the MLP, and few steps")
    parser.add_argument("--networks", nargs="+", choices=NETWORKS)
    parser.add_argument("--steps", type=int, help="of the stage that is timed")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--pages", nargs="+", default=[], help="figures of the book")
    parser.add_argument("--profile", default="laptop", help="of the pages")
    for hidden in ("--stages", "--page"):
        parser.add_argument(hidden, help=argparse.SUPPRESS)
    parser.add_argument("--compile", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    steps = options.steps or (5 if options.quick else 40)
    if options.stages:
        print(json.dumps(stages(options.stages, steps)))
        return
    if options.page:
        print(json.dumps(page(options.page, options.profile, compile=options.compile)))
        return
    names = options.networks or (["mlp"] if options.quick else list(NETWORKS))
    command = shlex.join(["python", "benchmarks/programs.py", *sys.argv[1:]])
    before = earlier(options.out / "programs")
    rows = [row for row in before.get("rows", []) if row["network"] not in names]
    for name in names:
        rows.append({**measure(name, steps, quick=options.quick), **origin(command)})
    rows.sort(key=lambda row: list(NETWORKS).index(row["network"]))
    pages = [row for row in before.get("pages", []) if row["figure"] not in options.pages]
    for figure in options.pages:
        pages.append({**measure_page(figure, options.profile), **origin(command)})
    report = {
        "what": "CPU seconds for a compiled step",
        "command": command,
        "rows": rows,
        "pages": pages,
        "machine": environment(),
    }
    write_report(options.out / "programs", report, table(report))


def origin(command: str) -> dict[str, Any]:
    """Return what a row keeps of where it comes from, as others may be measured another time."""
    here = environment()
    return {"command": command, "load_1min": here["load_1min"], "threads": here["threads"]}


def table(report: dict[str, Any]) -> str:
    """Write the report as Markdown."""
    machine = report["machine"]
    lines = [
        f"# Compiled programs: {report['what']}",
        "",
        f"`python benchmarks/programs.py`, on {machine['cpu']}, PyTorch {machine['torch']}. CPU seconds; on a busy",
        "machine (load) they are up to twice as many.",
        "",
        "| network | at once | threads | load | cold | next stage | new process | plain step | compiled "
        "| pays off after |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for r in report["rows"]:
        pays_off = f"{r['pays_off_after']:,.0f} steps" if r["pays_off_after"] else "never"
        lines.append(
            f"| {r['network']} | {r['members']} | {r['threads']} | {r['load_1min']:.0f} | {r['cold']:.1f} | "
            f"{r['next_stage']:.2f} | {r['new_process']:.1f} | {r['step_plain']:.4f} | "
            f"{r['step_compiled']:.4f} | {pays_off} |"
        )
    if report["pages"]:
        lines += [
            "",
            "Of a whole page, from an empty store:",
            "",
            "| figure | profile | threads | load | plain | compiled, cold | compiled, programs kept |",
            "| --- | --- | --- | --- | --- | --- | --- |",
        ]
    lines += [
        f"| {r['figure']} | {r['profile']} | {r['threads']} | {r['load_1min']:.0f} | {r['plain']:.0f} | "
        f"{r['cold']:.0f} | {r['warm']:.0f} |"
        for r in report["pages"]
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
