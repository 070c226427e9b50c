"""The index of published tickets: a table for each folder, with the files to download."""

from __future__ import annotations

from itertools import groupby
from typing import Any

from docutils import nodes
from metadata import metadata
from shown import download, note_numbers, table_nodes
from sphinx.util.docutils import SphinxDirective


class Tickets(SphinxDirective):
    """All tickets of the repository, by record."""

    def run(self) -> list[nodes.Node]:
        from lotperm.studies import cards
        from lotperm.studies.published import book_folder

        note_numbers(self.env)
        results = book_folder() / "results"
        out: list[nodes.Node] = []
        for folder, of_folder in groupby(
            cards.ticket_files(results), lambda file: file.path.parent
        ):
            files = list(of_folder)
            first, name = files[0], folder.parent.name
            out.append(nodes.rubric("", f"{first.subject}: {first.parameters:,} weights"))
            table = cards.index(files)
            body = [
                [self.link(name, file.path.name), *(nodes.Text(cell) for cell in row)]
                for file, row in zip(files, table.itertuples(index=False, name=None), strict=True)
            ]
            out.append(table_nodes(["file", *table.columns], body))
            words = nodes.paragraph("", "", self.link(name, cards.CARD, "The model card"))
            words += nodes.Text(f", with every checksum; recorded run {name}.")
            out.append(words)
        return out

    def link(self, record: str, file: str, words: str = "") -> nodes.Node:
        target = f"/book/results/{record}/tickets/{file}"
        return download(self.env.docname, target, words or file.partition(".")[0])


def setup(app: Any) -> dict[str, Any]:
    """Register the directive; Sphinx calls this."""
    app.add_directive("tickets", Tickets)
    return metadata(__file__)
