"""Published tables as downloads: each named after what it holds, and a list of all of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from docutils import nodes
from metadata import metadata
from shown import download, note_numbers, stored, table_nodes
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective


class AllTables(SphinxDirective):
    """A table of every recorded and every published table, each with its file."""

    def run(self) -> list[nodes.Node]:
        from lotperm.studies.downloads import every_table

        note_numbers(self.env)
        found = every_table()
        out: list[nodes.Node] = []
        for kind, head in (
            ("recorded", "data set, network, profile"),
            ("paper", "where the numbers come from"),
        ):
            body = [
                [
                    download(self.env.docname, f"/{row['file']}", row["name"]),
                    row["what"],
                    row["rows"],
                ]
                for row in found
                if row["kind"] == kind
            ]
            out += [nodes.rubric("", kind), table_nodes(["file", head, "rows"], body)]
        return out


def _on_read(app: Sphinx, doctree: nodes.document) -> None:
    """Let links to published tables lead to copies that are named after what they hold."""
    from lotperm.studies.downloads import named_file

    for link in doctree.findall(addnodes.download_reference):
        relative, path = app.env.relfn2path(link["reftarget"], app.env.docname)
        named = named_file(relative)
        if named is not None and Path(path).exists():
            name, content = named
            link["reftarget"] = stored(app, content, f"csv/{name}")


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the directive and the hook; Sphinx calls this."""
    app.add_directive("all-tables", AllTables)
    # After strips are there, before Sphinx collects downloads at 500.
    app.connect("doctree-read", _on_read, priority=410)
    return metadata(__file__)
