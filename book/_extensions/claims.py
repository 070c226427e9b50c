"""Directives of the ledger of claims, of the paper's tables and of its protocol.

They build nodes, not markup: a claim is a card that reads on a phone, and a table is cut into small
ones, a sparsity each.
"""

from __future__ import annotations

import base64
import html
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from docutils import nodes
from metadata import metadata
from shown import figure_nodes, note_numbers, table_nodes
from sphinx.util.docutils import SphinxDirective

_WORDS = {"lth": "LTH", "permuted": "permuted", "naive": "naive"}


class _FromData(SphinxDirective):
    """A directive whose page is made anew when a number or the ledger's code changes."""

    def depend(self) -> None:
        note_numbers(self.env)

    def inline(self, text: str) -> list[nodes.Node]:
        """Return the nodes of a line of markup."""
        found, messages = self.parse_inline(text)
        return [*found, *messages]

    def paragraph(self, text: str, *classes: str) -> nodes.paragraph:
        return nodes.paragraph("", "", *self.inline(text), classes=list(classes))


class Ledger(_FromData):
    """The claims of one theme, a card each; the argument is the theme."""

    required_arguments = 1
    final_argument_whitespace = True

    def run(self) -> list[nodes.Node]:
        from lotperm.site.claims import page_ledger

        self.depend()
        rows = [row for row in page_ledger() if row.claim.theme == self.arguments[0]]
        if not rows:
            raise self.error(f"no claim has the theme {self.arguments[0]!r}.")
        return [self.card(row) for row in rows]

    def card(self, row: Any) -> nodes.container:
        claim = row.claim
        card = nodes.container(classes=["claim", f"claim-{_slug(row.verdict)}"])
        card["names"].append(claim.slug)
        self.state.document.note_explicit_target(card, card)
        card += nodes.paragraph(
            "",
            "",
            nodes.strong("", claim.number),
            nodes.Text(" "),
            _badge(row.verdict),
            classes=["claim-head"],
        )
        card += self.paragraph(claim.words, "claim-words")
        card += self.paragraph(self.places(claim), "claim-places")
        card += nodes.definition_list("", *self.items(row))
        units = [effect.unit for effect in (*row.theirs, *row.recorded, *row.live)]
        rule = f"Asked of the effect: {claim.rule.words(units[0] if units else '')}."
        card += self.paragraph(f"{rule} {claim.remark}".strip(), "claim-rule")
        return card

    def items(self, row: Any) -> list[nodes.definition_list_item]:
        claim, unproven = row.claim, f"No number: {row.claim.unproven}."
        here = (*row.recorded, *row.live)
        return [
            self.evidence("Published", row.tables, row.theirs, claim, unproven),
            self.evidence("Here", row.verdict, here, claim, self.missing(row)),
        ]

    def places(self, claim: Any) -> str:
        post, paper = (claim.place(where) or "–" for where in ("post", "paper"))
        return f"Post: {post} · Paper: {paper} · In this book: {{doc}}`/{claim.page}`"

    def missing(self, row: Any) -> str:
        return f"{row.verdict.capitalize()}. It takes {row.claim.needs}."

    def evidence(
        self, word: str, verdict: str | None, effects: Sequence[Any], claim: Any, otherwise: str
    ) -> nodes.definition_list_item:
        term = nodes.term("", word)
        if len(effects) > 1:
            term += [nodes.Text(", together "), _badge(str(verdict))]
        definition = nodes.definition()
        for effect in effects:
            text = f"{effect.source}: {effect.what}: "
            line = nodes.paragraph("", "", _badge(claim.rule.judge(effect)), nodes.Text(f" {text}"))
            line += nodes.strong("", effect.text())
            line += nodes.Text(f"; {effect.note}." if effect.note else ".")
            definition += line
        if not effects:
            definition += self.paragraph(otherwise)
        return nodes.definition_list_item("", term, definition)


class OwnLedger(Ledger):
    """The ledger's second part: this project's own claims, a card each."""

    required_arguments = 0

    def run(self) -> list[nodes.Node]:
        from lotperm import studies
        from lotperm.studies.claims.own import own_ledger

        self.depend()
        for path in Path(studies.__file__).parent.glob("*/predictions.toml"):
            self.env.note_dependency(str(path))
        return [self.card(row) for row in own_ledger()]

    def items(self, row: Any) -> list[nodes.definition_list_item]:
        # Nobody else has made these claims, so nothing is published.
        return super().items(row)[1:]

    def places(self, claim: Any) -> str:
        return f"In this book: {{doc}}`/{claim.page}`"


class LedgerSum(_FromData):
    """The ledger in two sentences."""

    def run(self) -> list[nodes.Node]:
        from lotperm.site.claims import page_ledger
        from lotperm.studies.claims import ledger_sum

        self.depend()
        return [self.paragraph(ledger_sum(page_ledger()), "ledger-sum")]


class LedgerOverview(_FromData):
    """Every verdict with links to its claims; for the ledger's own page."""

    def run(self) -> list[nodes.Node]:
        from lotperm.site.claims import page_ledger
        from lotperm.studies.claims import counts

        self.depend()
        rows = page_ledger()
        overview = nodes.definition_list()
        for verdict, count in counts(rows).items():
            line = nodes.paragraph(classes=["claim-links"])
            for row in rows:
                if row.verdict == verdict:
                    link = nodes.reference("", row.claim.number, refid=row.claim.slug)
                    line += [link, nodes.Text(" ")]
            term = nodes.term("", "", _badge(verdict), nodes.Text(f" {count}"))
            overview += nodes.definition_list_item("", term, nodes.definition("", line))
        return [overview]


class LedgerDownload(_FromData):
    """A link that downloads the ledger as CSV, carried in the page itself."""

    def run(self) -> list[nodes.Node]:
        from lotperm.site.claims import page_ledger
        from lotperm.studies.claims import ledger_table

        self.depend()
        text = ledger_table(page_ledger()).to_csv(index=False, lineterminator="\n")
        data = base64.b64encode(text.encode()).decode()
        link = (
            f'<p><a class="csv-download" download="{html.escape("ledger_of_claims.csv")}" '
            f'href="data:text/csv;base64,{data}">The ledger as CSV</a></p>'
        )
        return [nodes.raw("", link, format="html")]


class PaperTable(_FromData):
    """One of the paper's Tables 5 to 14; the argument is its number."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        from lotperm.studies.claims import numbers

        self.depend()
        tidy = numbers.cells()
        chosen = tidy[tidy["table"] == int(self.arguments[0])]
        if chosen.empty:
            raise self.error(f"table {self.arguments[0]}; the shelf has Tables 5 to 14.")
        first = chosen.iloc[0]
        names = numbers.NAMES
        network = f"{names[first['network']]}×{first['width']} on {names[first['dataset']]}"
        figure = numbers.both_numbers(first["figure"]).partition(" (")[0]
        intro = (
            f"**Paper**, Table {first['table']}: {network}, test accuracy in percent, mean and "
            f"reported spread. Drawn in {figure}."
        )
        out: list[nodes.Node] = [self.paragraph(intro)]
        for metric, of_metric in chosen.groupby("metric"):
            top = "" if metric == "top1" else "top-5, "
            out += self.figure(int(first["table"]), str(metric))
            tables = nodes.container(classes=["paper-tables"])
            for sparsity, part in of_metric.groupby("sparsity"):
                tables += self.table(f"Table {first['table']}, {top}S = {sparsity:.2f}", part)
            out.append(tables)
        return out

    def figure(self, table: int, metric: str) -> list[nodes.Node]:
        """Return the table's figure, with what it shows as its name."""
        from lotperm.studies.charts import use_style
        from lotperm.studies.claims import charts, numbers
        from lotperm.studies.origin import of_table

        use_style()
        figure = charts.against_rewinding(table, metric=metric)
        arms = numbers.settings(numbers.cells())
        arms = arms[(arms["table"] == table) & (arms["metric"] == metric)]
        alt = (
            f"Accuracy of LTH, permuted and naive against the rewind epoch, a panel for each "
            f"sparsity. LTH is above permuted in {int((arms['lth'] > arms['permuted']).sum())} and "
            f"permuted above naive in {int((arms['gain'] > 0).sum())} of {len(arms)} settings."
        )
        return figure_nodes(self.env.app, self.env.docname, figure, alt, [of_table(table)])

    def table(self, title: str, part: pd.DataFrame) -> nodes.container:
        arms = ("naive", "permuted", "lth")
        mean = part.pivot(index="rewind_epoch", columns="method", values="mean")
        std = part.pivot(index="rewind_epoch", columns="method", values="std")
        body = [
            [f"{k}", *(_with_spread(mean.loc[k, arm], std.loc[k, arm]) for arm in arms)]
            for k in mean.index
        ]
        box = nodes.container(classes=["paper-table"])
        box += nodes.paragraph("", title, classes=["paper-table-title"])
        box += table_nodes(["k", *(_WORDS[arm] for arm in arms)], body)
        return box


class RecordedSeries(_FromData):
    """What recorded runs show against rewind point, sparsity and width; for a data set and a network."""

    required_arguments = 2

    def run(self) -> list[nodes.Node]:
        from lotperm.studies.arms import compare, series, words
        from lotperm.studies.charts import use_style

        self.depend()
        for module in (compare, series, words):
            self.env.note_dependency(str(module.__file__))
        use_style()
        found = series.of_records(*self.arguments)
        by_factor = compare.curves(found)
        caption = "Recorded. Each curve is a mean over the other settings; bands are 95 % intervals over seeds."
        shown = words.curves(compare.side_by_side(by_factor), by_factor, caption)
        return [nodes.raw("", shown + words.agreement(found), format="html")]


class StatisticsExample(_FromData):
    """A table of the page on statistics; the argument is its name."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        from lotperm.studies import lesson

        self.depend()
        self.env.note_dependency(str(lesson.__file__))
        table = lesson.example(self.arguments[0])
        return [table_nodes(list(table.columns), table.to_numpy().tolist())]


class Protocol(_FromData):
    """The protocol of the paper, of its authors' code and of this project; a small table a part."""

    def run(self) -> list[nodes.Node]:
        from lotperm.config import presets
        from lotperm.studies.protocol import protocol

        self.depend()
        package = Path(presets.__file__).parents[1]
        for path in (*package.glob("config/*.toml"), *package.glob("studies/*/figures.toml")):
            self.env.note_dependency(str(path))
        tables = nodes.container(classes=["paper-tables"])
        for part, rows in protocol().groupby("part", sort=False):
            box = nodes.container(classes=["paper-table"])
            box += nodes.paragraph("", str(part), classes=["paper-table-title"])
            columns = ["what", "paper", "scripts", "ours"]
            body = rows[columns].replace("", "–").to_numpy().tolist()
            box += table_nodes(["", "paper", "authors' code", "here"], body)
            for row in rows[rows["why"] != ""].itertuples():
                box += self.paragraph(f"{row.what}: {row.why}.")
            places = "; ".join(dict.fromkeys(place for place in rows["where"] if place))
            if places:
                box += self.paragraph(f"Paper: {places}.")
            tables += box
        return [tables]


def _with_spread(mean: float, spread: float) -> str:
    return f"{mean:.2f}" if pd.isna(spread) else f"{mean:.2f} ± {spread:.2f}"


def _slug(verdict: str) -> str:
    return verdict.split()[0]


def _badge(verdict: str) -> nodes.inline:
    return nodes.inline("", verdict, classes=["verdict", f"verdict-{_slug(verdict)}"])


def setup(app: Any) -> dict[str, Any]:
    """Called by Sphinx."""
    app.add_directive("ledger", Ledger)
    app.add_directive("own-ledger", OwnLedger)
    app.add_directive("ledger-sum", LedgerSum)
    app.add_directive("ledger-overview", LedgerOverview)
    app.add_directive("ledger-download", LedgerDownload)
    app.add_directive("paper-table", PaperTable)
    app.add_directive("recorded-series", RecordedSeries)
    app.add_directive("statistics-example", StatisticsExample)
    app.add_directive("protocol", Protocol)
    app.add_css_file("claims.css")
    return metadata(__file__)
