"""Measure what stages beside each other save, on a stand-in whose graphs take time.

    STAND_IN_STEP_US=48000 STAND_IN_DEVICE_US=22000 python -m stand_in.beside

with the environment of `stand_in.build`. The two times are those expected for a step of ResNet20×1
on a GPU, alone and as its share of a full device, but 40 times as long, so that the host's time is
negligible. The plan is a small version of the paper's table for one seed up to 95 % sparsity.
"""

from __future__ import annotations

import json
import tempfile
import time
import warnings
from pathlib import Path

from lotperm import Store
from lotperm.cluster import campaign as campaigns
from lotperm.engine.runtime import Runtime
from stand_in import kernels

PLAN = {
    "defaults": {
        "profile": "smoke",
        "model": "mlp",
        "hidden": [16],
        "seeds": 1,
        "epochs": 8,
        "finetune_epochs": 2,
        "rewind_epoch": 1,
        "keep": [1],
        "train_size": 1280,
        "test_size": 200,
        "prune_fraction": 0.2,
    },
    "entries": [{"name": f"s{100 * s:.0f}", "sparsity": s} for s in (0.8, 0.9, 0.95)],
}


def main() -> None:
    """Compute the plan in both ways; print the seconds."""
    # Its weights are zeros, and so its masks are what they happen to be.
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "plan.json").write_text(json.dumps(PLAN))
        campaign = campaigns.Campaign.load(folder / "plan.json")
        for overlap in (False, True):
            here, said = folder / str(overlap), list[str]()
            begin = time.monotonic()
            runtime = Runtime(device="cuda", overlap=overlap)
            campaigns.run(campaign, Store(here / "store"), runtime, here, said.append)
            early = sum(line.endswith(", beside the others") for line in said)
            print(
                f"{time.monotonic() - begin:.1f} s, {early} stages beside others, "
                f"{kernels.count('complaints')} complaints of the stand-in",
                flush=True,
            )


if __name__ == "__main__":
    main()
