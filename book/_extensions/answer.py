"""The start page's answer: a sentence and a figure, computed from recorded and published numbers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from docutils import nodes
from metadata import metadata
from shown import figure_nodes, note_numbers, strip
from sphinx.util.docutils import SphinxDirective
from world import CARD


class AnswerSentence(SphinxDirective):
    """The answer in two sentences."""

    def run(self) -> list[nodes.Node]:
        from lotperm.site import answer

        note_numbers(self.env)
        found, messages = self.parse_inline(answer.sentence(answer.rows()))
        return [nodes.paragraph("", "", *found, *messages, classes=["answer"])]


class AnswerFigure(SphinxDirective):
    """The figure; the content is its caption, the option ``:name:`` its label.

    It also carries the recorded means for the page's panel, which marks them beside its curves.
    """

    has_content = True
    option_spec = {"name": str}  # noqa: RUF012 (as docutils has it)

    def run(self) -> list[nodes.Node]:
        from lotperm.site import answer

        note_numbers(self.env)
        rows = answer.rows()
        drawn = answer.figure(rows)
        self.draw_card(answer.figure(rows))
        pictures, _ = figure_nodes(self.env.app, self.env.docname, drawn, "", [])
        caption, messages = self.parse_inline(" ".join(self.content))
        figure = nodes.figure("", pictures, nodes.caption("", "", *caption, *messages))
        self.add_name(figure)
        means = next(
            {arm: getattr(row, arm) for arm in ("naive", "permuted", "lth")}
            for row in rows
            if row.kind == "recorded" and row.label.startswith("MNIST-1D")
        )
        data = f'<script type="application/json" id="lottery-recorded">{json.dumps(means)}</script>'
        return [figure, nodes.raw("", data, format="html")]

    def draw_card(self, figure: Any) -> None:
        """Leave the picture that links to the site are shown with: 1200 × 630 pixels."""
        import matplotlib.pyplot as plt

        target = Path(self.env.app.outdir).parent / "jupyter_execute" / CARD
        target.parent.mkdir(parents=True, exist_ok=True)
        figure.set_size_inches(8, 4.2)
        figure.suptitle("Can a lottery ticket be used twice?", fontsize=14)
        figure.savefig(target, dpi=150, metadata={"Software": None})
        plt.close(figure)


class AnswerSources(SphinxDirective):
    """The strip of the figure; below the panel, which is to be on the first screen."""

    def run(self) -> list[nodes.Node]:
        from lotperm.site import answer

        note_numbers(self.env)
        origins = dict.fromkeys(row.origin for row in answer.rows())
        return [strip(self.env.docname, [origin.plain() for origin in origins])]


def setup(app: Any) -> dict[str, Any]:
    """Register the directives; Sphinx calls this."""
    app.add_directive("answer", AnswerSentence)
    app.add_directive("answer-figure", AnswerFigure)
    app.add_directive("answer-sources", AnswerSources)
    return metadata(__file__)
