"""Run one experiment with so many threads, compiled or not; print its accuracies and where its
dense networks are.

    python measure.py '{"profile": "laptop"}' --threads 2 --compile
"""

from __future__ import annotations

import argparse
import json

import torch

from lotperm import Experiment, Pipeline, Runtime, Store


def main() -> None:
    """Run it in the store of LOTPERM_HOME."""
    parser = argparse.ArgumentParser()
    parser.add_argument("parameters", type=json.loads)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--compile", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    experiment = Experiment.from_parameters(**options.parameters)
    pipeline = Pipeline(experiment, Store.default(), Runtime(compile=options.compile))
    table = pipeline.run().table
    rows = table[table["metric"] == "test_accuracy"].drop(columns="metric")
    print(
        json.dumps(
            {
                "rows": rows.to_dict("records"),
                "dense": str(pipeline.dense().stage.run().path),
                "torch": torch.__version__,
            },
            default=str,
        )
    )


if __name__ == "__main__":
    main()
