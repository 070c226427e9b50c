"""The computed examples of the page on statistics, from recorded runs.

Everything is recomputed from the records when the page is built, and each table keeps the wrong way
beside the right one.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy import stats

from lotperm.errors import unknown_name
from lotperm.science.statistics import gap_closed, interval, paired, ratio_of_means
from lotperm.studies.arms.arms import PAPER_ARMS
from lotperm.studies.numbers import number
from lotperm.studies.published import book_folder

ONE, MANY = "mnist1d_live", "desktop_resnet8_cifar10"
"""Recorded runs: one setting with eight seeds, and eight settings with six."""


def example(name: str) -> pd.DataFrame:
    """Return one of the page's tables by name, with strings as entries.

    Parameters
    ----------
    name : str
        "seeds", "difference", "share" or "several".

    Raises
    ------
    ParameterError
        If there is no such table.
    """
    tables = {"seeds": _seeds, "difference": _difference, "share": _share, "several": _several}
    if name not in tables:
        raise unknown_name("example", name, tables)
    return tables[name]()


def _arms(name: str) -> pd.DataFrame:
    """Return a recorded run's accuracies in percent: index setting and seed, columns the arms."""
    rows = pd.read_csv(book_folder() / "results" / name / "results.csv")
    rows = rows[(rows["metric"] == "test_accuracy") & rows["method"].isin(PAPER_ARMS)]
    wide = rows.pivot(index=["sparsity", "rewind_epoch", "seed"], columns="method", values="value")
    return 100 * wide


def _seeds() -> pd.DataFrame:
    arms = _arms(ONE).droplevel(["sparsity", "rewind_epoch"])
    table = pd.DataFrame(
        {
            "seed": [str(seed) for seed in arms.index],
            **{arm: _texts(arms[arm]) for arm in ("naive", "permuted", "lth")},
            "permuted − naive": _texts(arms["permuted"] - arms["naive"]),
        }
    )
    mean = {"seed": "mean ± half width"}
    for arm in ("naive", "permuted", "lth"):
        mean[arm] = _with_half(arms[arm])
    mean["permuted − naive"] = _with_half(arms["permuted"] - arms["naive"])
    return pd.concat([table, pd.DataFrame([mean])], ignore_index=True)


def _difference() -> pd.DataFrame:
    arms = _arms(ONE)
    permuted, naive = arms["permuted"].to_numpy(), arms["naive"].to_numpy()
    found = paired(permuted, naive)
    apart = stats.ttest_ind(permuted, naive, equal_var=False)
    low, high = apart.confidence_interval()
    return pd.DataFrame(
        [
            ["paired by seed", f"{found.mean:.2f} ± {found.half_width:.2f}", _p(found.p_value)],
            [
                "as if unpaired (Welch)",
                f"{found.mean:.2f} ± {(high - low) / 2:.2f}",
                _p(float(apart.pvalue)),
            ],
        ],
        columns=["how", "permuted − naive (points)", "p"],
    )


def _share() -> pd.DataFrame:
    rows = []
    for label, arms in (
        (f"{ONE}, one setting", _arms(ONE)),
        (f"{MANY}, S = 0.95, k = 2", _arms(MANY).xs((0.95, 2), level=["sparsity", "rewind_epoch"])),
    ):
        gain, gap = arms["permuted"] - arms["naive"], arms["lth"] - arms["naive"]
        ratio = ratio_of_means(gain, gap)
        share, low, high = (number(100 * x, 0) for x in (ratio.ratio, *ratio.bounds))
        each = gap_closed(arms["lth"], arms["naive"], arms["permuted"])
        half = 100 * each.half_width
        rows.append(
            [
                label,
                f"{share} % [{low}, {high}]",
                f"{number(100 * each.mean, 0)} ± {half:.0f} %",
            ]
        )
    columns = ["run", "ratio of means, Fieller's interval", "mean of the seeds' own ratios"]
    return pd.DataFrame(rows, columns=columns)


def _several() -> pd.DataFrame:
    arms = _arms(MANY)
    gain = (arms["permuted"] - arms["naive"]).unstack("seed")
    p = np.array([stats.ttest_1samp(row, 0).pvalue for row in gain.to_numpy()])
    # Settings share dense networks, so the tests depend on one another.
    corrected = stats.false_discovery_control(p, method="by")
    return pd.DataFrame(
        {
            "S": [f"{s:g}" for s, _ in gain.index],
            "k": [f"{k:g}" for _, k in gain.index],
            "permuted − naive (points)": [_with_half(row) for _, row in gain.iterrows()],
            "p": [_p(x) for x in p],
            "p, corrected": [_p(x) for x in corrected],
        }
    )


def _texts(values: pd.Series) -> list[str]:
    return [number(x) for x in values]


def _with_half(values: pd.Series) -> str:
    mean, half = interval(values.to_numpy())
    return f"{number(mean)} ± {half:.1f}"


def _p(p: float) -> str:
    return "< 0.001" if p < 0.001 else f"{p:.2g}"
