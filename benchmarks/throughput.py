"""How many images a second networks train at on this device, for `lotperm plan`: rows of book/results/throughput.json.

    python benchmarks/throughput.py --device cuda --name h100
    python benchmarks/throughput.py --device cuda --name h100 --figures resnet20_cifar10 --precision bfloat16 --compile

Rows of other devices, and of networks that aren't measured now, stay as they are.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import json

import torch
from common import RESULTS, environment

from lotperm.config import FIGURES
from lotperm.costs import DEVICES, Speed, measure, recorded_speeds
from lotperm.plan import figure
from lotperm.training import Runtime


def key(speed: Speed) -> tuple[object, ...]:
    """What a row is about."""
    return (
        speed.device, speed.model, speed.width, speed.hidden, speed.input_shape, speed.precision, speed.members
    )  # fmt: skip


def main() -> None:
    """Measure and write, after every network: what was measured isn't lost if it is stopped."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--name", choices=DEVICES, required=True, help="what the plan calls this device")
    parser.add_argument(
        "--figures", nargs="+", choices=FIGURES, default=["resnet20_cifar10", "vgg11_cifar10"]
    )
    parser.add_argument("--profile", default="paper")
    parser.add_argument("--members", type=int, nargs="+", default=[3, 6, 9])
    parser.add_argument("--precision", default=None)
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--seconds", type=float, default=5.0)
    options = parser.parse_args()
    machine = environment()
    what = torch.cuda.get_device_name() if options.device == "cuda" else machine["cpu"]
    how = ", compiled" if options.compile else ""
    source = (
        f"benchmarks/throughput.py{how}, {what}, {machine['threads']} threads, PyTorch {machine['torch']}, "
        f"{datetime.date.today()}"
    )
    rows = {key(speed): speed for speed in recorded_speeds()}
    for name in options.figures:
        for experiment in figure(name, profile=options.profile, precision=options.precision).experiments:
            for members in options.members:
                runtime = Runtime(options.device, options.compile)
                speed = measure(experiment, members, options.name, runtime, seconds=options.seconds)
                speed = dataclasses.replace(speed, source=source)
                rows[key(speed)] = speed
                print(
                    f"{speed.model} ×{speed.width:g}, {members} at once: {speed.images_per_second:,.0f} images/s"
                )
                content = {"rows": [dataclasses.asdict(row) for row in rows.values()]}
                (RESULTS / "throughput.json").write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
