"""The table of members and ensembles."""

from __future__ import annotations

import pandas as pd

from lotperm.studies.tables import joined


def diversity(table: pd.DataFrame) -> pd.DataFrame:
    """Tabulate members, ensemble and diversity of every method, as the paper's Table 1.

    Parameters
    ----------
    table : DataFrame
        As `Pipeline.diversity` returns it.

    Returns
    -------
    DataFrame
        Index method; accuracy of the members in percent (mean ± half its 95 % interval over members) and of
        the ensemble, disagreement (a fraction), KL and JS (nats); texts.
    """
    small = {"disagreement": "disagreement", "KL": "kl", "JS": "js"}
    return pd.DataFrame(
        {
            "test accuracy (%)": joined(table["mean"], table["half_width"]),
            "ensemble (%)": (100 * table["ensemble_accuracy"]).map("{:.1f}".format),
            **{words: table[name].map("{:.3f}".format) for words, name in small.items()},
        }
    ).set_index(table["method"])
