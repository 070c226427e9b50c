"""The ledger's second part: this project's own claims, which were predictions before their runs.

Each question beyond the paper states them in its ``predictions.toml``; here they become claims, and
recorded runs decide them by the same rules as the paper's.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path

from lotperm.studies import attention, causal, many, matchers, signs
from lotperm.studies.attention.measures import MEASURES as OF_ATTENTION
from lotperm.studies.causal.measures import MEASURES as OF_CAUSAL
from lotperm.studies.claims.claim import Claim
from lotperm.studies.claims.evidence import Effect
from lotperm.studies.claims.ledger import Row, ledger
from lotperm.studies.claims.sources import Sources
from lotperm.studies.many.measures import MEASURES as OF_MANY
from lotperm.studies.matchers.measures import MEASURES as OF_MATCHERS
from lotperm.studies.predictions import Measure, Prediction, effects, load_predictions
from lotperm.studies.signs.measures import MEASURES as OF_SIGNS

THEME = "Beyond the paper"
"""Heading under which the ledger lists them."""

# Kind of a question -> its folder, its quantities, and the page that shows them.
_QUESTIONS: dict[str, tuple[Path, Mapping[str, Measure], str]] = {
    "causal": (Path(causal.__path__[0]), OF_CAUSAL, "notebooks/14_causal_test"),
    "signs": (Path(signs.__path__[0]), OF_SIGNS, "notebooks/15_signs"),
    "matchers": (Path(matchers.__path__[0]), OF_MATCHERS, "notebooks/16_matchers"),
    "attention": (Path(attention.__path__[0]), OF_ATTENTION, "notebooks/17_attention"),
    "many": (Path(many.__path__[0]), OF_MANY, "notebooks/18_many"),
}


def own_claims() -> list[Claim]:
    """Return the predictions of all questions, as claims in their order."""
    return [
        Claim(
            number=p.number,
            words=p.words,
            theme=THEME,
            page=page,
            rule=p.rule,
            ours=partial(_recorded, kind, p, measures),
            needs="a recorded run of its page",
            remark=_remark(p),
        )
        for kind, (folder, measures, page) in _QUESTIONS.items()
        for found in [load_predictions(folder, measures)]
        for p in found.all
    ]


def _remark(prediction: Prediction) -> str:
    """Say where a prediction holds, and when it was stated."""
    after = f", after {prediction.seen}" if prediction.seen else ""
    return f"Expected at {prediction.where}; stated on {prediction.stated}{after}, before the runs."


def _recorded(
    kind: str, prediction: Prediction, measures: Mapping[str, Measure], sources: Sources
) -> list[Effect]:
    """Return what every recorded run of a question says about a prediction."""
    return [
        effect
        for run in sources.of_kind(kind)
        for effect in effects(prediction, measures, run.rows.assign(model=run.model), run.source)
    ]


def own_ledger(sources: Sources | None = None) -> list[Row]:
    """Compute the ledger's second part; see `lotperm.studies.claims.ledger.ledger`."""
    return ledger(sources, claims=own_claims())
