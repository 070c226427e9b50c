"""Measure whether permuting helps masks that don't come from IMP.

The three arms of the method (LTH, permuted, naive) under masks of every source, all of the same
sparsity and on the same networks A and B, with the same permutation: the experiment of
`lotperm.studies.arms` with ``mask`` changed.

Expectations, written down before the first run: permuting helps a mask to the extent that the mask
depends on A's units. It helps most under IMP and one-shot magnitudes of the trained A; less under
SNIP, GraSP and SynFlow, which see A after a few epochs; under random masks, which see nothing,
permuted − naive is zero within its interval. RigL and movement were added later; before their first
run: permuting helps movement, which sees all of A's training, as much as one-shot magnitudes, and
RigL less than IMP but more than random masks, as its networks start from A after a few epochs.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, get_args

from common import RESULTS, environment, write_report

from lotperm import Experiment, Pipeline, Store
from lotperm.config.choices import MaskSource
from lotperm.science.ranking import collapsed
from lotperm.science.statistics import interval, paired
from lotperm.studies.arms.arms import PAPER_ARMS

WORDS = {
    "imp": "IMP",
    "magnitude": "magnitude, one shot",
    "snip": "SNIP",
    "grasp": "GraSP",
    "synflow": "SynFlow",
    "erk": "random, ERK densities",
    "uniform": "random, uniform densities",
    "rigl": "RigL",
    "movement": "movement",
}
QUICK = {
    "profile": "smoke",
    "train_size": 200,
    "test_size": 100,
    "epochs": 2,
    "rewind_epoch": 1,
    "finetune_epochs": 1,
    "hidden": [12],
    "seeds": 2,
    "sparsity": 0.5,
}


def row(source: MaskSource, store: Store, parameters: dict[str, Any]) -> dict[str, Any]:
    """Run the arms under masks of one source; return accuracies and what permuting changes."""
    pipeline = Pipeline(Experiment.from_parameters(**parameters, mask=source), store)
    results, e = pipeline.run(), pipeline.experiment
    s, k = e.sparsities[0], e.rewind_epochs[0]
    arms = {arm: results.values(arm, s, k).sort_index().to_numpy() for arm in PAPER_ARMS}
    masks = pipeline.masks(s, k)
    first = list(masks[0])
    return {
        "mask": source,
        **{arm: interval(values) for arm, values in arms.items()},
        "permuted - naive": paired(arms["permuted"], arms["naive"])._asdict(),
        "density": {
            name: sum(float(m[name].float().mean()) for m in masks) / len(masks) for name in first
        },
        "collapsed": sum(bool(collapsed(mask)) for mask in masks),
    }


def table(report: dict[str, Any]) -> str:
    """Write the report as Markdown."""
    machine, rows = report["machine"], report["rows"]
    layers = " / ".join(name.removesuffix(".weight") for name in rows[0]["density"])
    lines = [
        "# Masks from elsewhere",
        "",
        f"`{report['command']}`, on {machine['cpu']}, PyTorch {machine['torch']}. {report['what']}. Test accuracy in "
        "percent and differences in points, mean ± half width of the 95 % interval; p of a paired t-test, without "
        f"correction for {len(rows)} comparisons.",
        "",
        f"| mask | LTH | permuted | naive | permuted − naive | p | density of {layers} |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for found in rows:
        arms = [f"{100 * found[arm][0]:.1f} ± {100 * found[arm][1]:.1f}" for arm in PAPER_ARMS]
        d = found["permuted - naive"]
        densities = " / ".join(f"{value:.2f}" for value in found["density"].values())
        difference = f"{100 * d['mean']:.1f} ± {100 * d['half_width']:.1f}"
        lines.append(
            f"| {WORDS[found['mask']]} | {' | '.join(arms)} | {difference} | {d['p_value']:.1g} | {densities} |"
        )
    lost = sum(found["collapsed"] for found in rows)
    lines += ["", f"Masks that keep nothing of some layer: {lost}."]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Run the arms under every mask and write the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="tiny, to see that it runs")
    parser.add_argument("--seeds", type=int, default=6)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    sources: tuple[MaskSource, ...] = get_args(MaskSource)
    parameters: dict[str, Any] = {"profile": "laptop", "seeds": options.seeds}
    store = Store.default()
    if options.quick:
        parameters, sources = QUICK, ("magnitude", "uniform")
        # Results of so small a run don't belong in the user's store.
        store = Store(options.out / "store")
    e = Experiment.from_parameters(**parameters)
    report = {
        "command": f"python benchmarks/masks.py --seeds {len(e.seeds)}",
        "what": f"{e.data.name}, {e.model.name} {e.model.hidden}, sparsity {e.sparsities[0]:g}, rewind epoch "
        f"{e.rewind_epochs[0]}, {len(e.seeds)} seeds",
        "rows": [row(source, store, parameters) for source in sources],
        "machine": environment(),
    }
    write_report(options.out / "masks", report, table(report))


if __name__ == "__main__":
    main()
