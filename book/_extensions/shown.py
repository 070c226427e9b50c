"""What the book shows: figures in two layouts with a strip that says where they come from, tables, data.

Notebooks carry with each figure what belongs to it (`lotperm.studies.show`). Here the pieces are put
onto the page: the layout for phones beside the wide one, the strip below, the data as a file.
"""

from __future__ import annotations

import base64
import datetime
import hashlib
import html
import json
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from docutils import nodes
from metadata import metadata
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment

from lotperm.store.provenance import source_hash
from lotperm.studies.origin import Origin

_SVG = "image/svg+xml"
_STACKED = 4  # columns from which on a table becomes a stack of cards on a phone


def figure_nodes(
    app: Sphinx, docname: str, figure: Any, alt: str, origins: Sequence[Origin]
) -> list[nodes.Node]:
    """Return a figure that a directive draws, with its strip; the figure is closed.

    Parameters
    ----------
    app : Sphinx
        The application.
    docname : str
        The page.
    figure : Figure
        The figure.
    alt : str
        What it says.
    origins : sequence of Origin
        Where its numbers come from.
    """
    import matplotlib.pyplot as plt

    from lotperm.studies.show import shown

    svg, about = shown(figure, tuple(origins))
    plt.close(figure)
    image = nodes.image(uri=stored(app, svg), alt=alt)
    images = _layouts(app, image, svg, about["lotperm"])
    return [nodes.paragraph("", "", *images), strip(docname, about["lotperm"]["origins"])]


def note_numbers(env: BuildEnvironment) -> None:
    """Make the page anew when a recorded or published number changes, or what is made of them."""
    import lotperm.studies
    from lotperm.studies.published import book_folder

    data, package = book_folder(), Path(lotperm.studies.__path__[0])
    for path in (
        *package.rglob("*.py"),
        *(data / "paper").glob("*.csv"),
        *(data / "results").glob("*/results.json"),
    ):
        env.note_dependency(str(path))


def strip(docname: str, origins: Iterable[dict[str, Any]], data: str = "") -> nodes.container:
    """Return the strip below a figure.

    Parameters
    ----------
    docname : str
        The page.
    origins : iterable of dict
        Where the numbers come from, as `Origin.plain`.
    data : str
        Path of the file with the page's own numbers, relative to the sources; "" if there is none.
    """
    box = nodes.container(classes=["provenance"])
    for plain in origins:
        box += _line(docname, Origin(**plain).today(), data)
    return box


_DEVICES = {"cpu": "CPU", "cuda": "GPU", "browser": "computed in your browser"}


def _line(docname: str, origin: Origin, data: str) -> nodes.container:
    live = origin.kind == "live"
    # No paragraph, which couldn't hold what opens at a click.
    line = nodes.container(classes=["origin"])
    line += nodes.inline("", origin.kind, classes=["kind", f"kind-{origin.kind}"])
    parts = [origin.of]
    if origin.seeds:
        parts.append(f"{origin.seeds} seed{'s' if origin.seeds > 1 else ''}")
    if origin.device:
        parts.append(_DEVICES.get(origin.device, origin.device))
    if live and origin.device != "browser":
        parts.append(f"computed for this build, {_today()}")
    elif origin.date:
        parts.append(origin.date)
    line += nodes.Text(" " + " · ".join(parts))
    if origin.source:
        line += nodes.Text(" · sources ")
        line += nodes.literal("", origin.source[:8])
    if origin.fresh is not None:
        word = "fresh" if origin.fresh else "stale"
        line += [nodes.Text(" "), nodes.inline("", word, classes=[word])]
    for words, target in (
        ("CSV", f"/{origin.data}" if origin.data else data if live else ""),
        ("notebook", f"/{docname}.ipynb" if live and docname.startswith("notebooks/") else ""),
    ):
        if target:
            line += [nodes.Text(" · "), download(docname, target, words)]
    if origin.command:
        line += nodes.Text(" ")
        line += nodes.raw(
            "",
            f'<details class="again"><summary>command</summary><code>{html.escape(origin.command)}</code></details>',
            format="html",
        )
    return line


def table_nodes(head: Sequence[str], body: Iterable[Sequence[nodes.Node | str]]) -> nodes.table:
    """Return a table; cells are texts or nodes.

    Parameters
    ----------
    head : sequence of str
        What stands above each column.
    body : iterable of sequence
        The rows.
    """

    def row(cells: Sequence[nodes.Node | str]) -> nodes.row:
        texts = [nodes.Text(cell) if isinstance(cell, str) else cell for cell in cells]
        return nodes.row("", *(nodes.entry("", nodes.paragraph("", "", x)) for x in texts))

    group = nodes.tgroup("", *(nodes.colspec(colwidth=1) for _ in head), cols=len(head))
    group += nodes.thead("", row(head))
    group += nodes.tbody("", *(row(cells) for cells in body))
    return nodes.table("", group)


def _today() -> str:
    """Return the day of the build; SOURCE_DATE_EPOCH may name another."""
    seconds = os.environ.get("SOURCE_DATE_EPOCH")
    now = datetime.datetime.now(datetime.UTC)
    day = datetime.datetime.fromtimestamp(int(seconds), datetime.UTC) if seconds else now
    return day.date().isoformat()


def download(docname: str, target: str, words: str, *classes: str) -> addnodes.download_reference:
    """Return a link to a file of the sources, which goes along with the site.

    Parameters
    ----------
    docname : str
        The page.
    target : str
        The file's path, from the sources' root with a slash before it.
    words : str
        What the link says.
    *classes : str
        Classes of the link.
    """
    text = nodes.inline("", words)
    return addnodes.download_reference(
        "", "", text, refdoc=docname, reftarget=target, classes=list(classes)
    )


def _folder(app: Sphinx) -> Path:
    """Return where files are kept that pages are made of: beside those that myst-nb keeps."""
    folder = Path(app.outdir).parent / "jupyter_execute"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def stored(app: Sphinx, text: str, name: str = "") -> str:
    """Write a file beside those that myst-nb keeps; return its path from the sources, as Sphinx takes it.

    Parameters
    ----------
    app : Sphinx
        The application.
    text : str
        The content.
    name : str
        The file's name; by default that of a picture, after its content.
    """
    data = text.encode()
    path = _folder(app) / (name or f"{hashlib.sha256(data).hexdigest()}.svg")
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists() or path.read_bytes() != data:
        path.write_bytes(data)
    return "/" + Path(os.path.relpath(path, app.srcdir)).as_posix()


def _layouts(app: Sphinx, image: nodes.image, svg: str, about: dict[str, Any]) -> list[nodes.image]:
    """Return the picture for wide windows and, where there is one, that for phones."""
    # What a cell says of its figure can't know the numbers: those that are drawn follow.
    written = " ".join((image.get("alt", ""), about.get("drawn", ""))).strip()
    image["alt"] = about["alt"] or written
    own = ["keep-colours"] if about["photos"] else []
    image["classes"] += ["figure-wide", *own]
    _size(image, svg)
    if not about["narrow"]:
        # On a phone it is moved under a finger, and a tap opens it by itself.
        image["classes"].append("figure-alone")
        return [image]
    image["classes"].append("no-scaled-link")
    narrow = nodes.image(uri=stored(app, about["narrow"]), alt=image["alt"])
    narrow["classes"] += ["figure-narrow", "no-scaled-link", *own]
    _size(narrow, about["narrow"])
    return [image, narrow]


def _size(image: nodes.image, svg: str) -> None:
    """Tell the page how large a picture is, so that nothing moves when it is there."""
    tag = re.search(r"<svg[^>]*>", svg)
    sizes = dict(re.findall(r'\b(width|height)="([\d.]+)pt"', tag[0] if tag else ""))
    for side, points in sizes.items():
        image[side] = f"{float(points) * 4 / 3:.0f}"


def _carried(path: Path) -> dict[str, tuple[str, dict[str, Any]]]:
    """Read what a notebook carries with its figures; name of the picture's file -> SVG, the rest."""
    found = {}
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        for output in cell.get("outputs", ()):
            content = output.get("data", {}).get(_SVG)
            about = output.get("metadata", {}).get(_SVG, {}).get("lotperm")
            if content and about:
                text = content if isinstance(content, str) else "".join(content)
                # As myst-nb names it.
                data = os.linesep.join(text.splitlines()).encode()
                found[hashlib.sha256(data).hexdigest()] = (text, about)
    return found


def _on_read(app: Sphinx, doctree: nodes.document) -> None:
    docname = app.env.docname
    files = list(_data_files(app, doctree, docname))
    _put_pictures(app, doctree, docname, files)
    path = Path(app.env.doc2path(docname))
    if path.suffix == ".ipynb":
        carried = _carried(path)
        _put_figures(app, doctree, docname, carried, files)
        _put_panels(doctree, docname, carried)
    _mark_tables(doctree)


_LINK = re.compile(
    r'<a class="csv-download" download="(?P<name>[^"]+)"\s+href="data:text/csv;base64,(?P<data>[^"]+)"'
    r">(?P<words>[^<]+)</a>"
)
"""A link that `lotperm.studies.html.csv_link` wrote."""


def _data_files(
    app: Sphinx, doctree: nodes.document, docname: str
) -> Iterator[tuple[nodes.Element, str]]:
    """Turn data that links carry into files; yield each place and the file's path.

    In a notebook a link has to carry its data; a page of the site has files beside it.
    """
    for raw in list(doctree.findall(nodes.raw)):
        text = raw.astext()
        links = list(_LINK.finditer(text))
        if not links:
            continue
        place = nodes.paragraph(classes=["data"])
        for link in links:
            name = html.unescape(link["name"])
            content = base64.b64decode(link["data"]).decode()
            target = stored(app, content, f"csv/{docname.replace('/', '-')}/{name}")
            if len(place):
                place += nodes.raw("", "<br>", format="html")
            place += download(docname, target, html.unescape(link["words"]), "csv-download")
            yield place, target
        raw.replace_self(place)


_PICTURE = re.compile(
    r'<div class="shown"><img alt="(?P<alt>[^"]*)" src="data:image/svg\+xml;base64,(?P<svg>[^"]+)">'
    r'(?P<below>.*?)<script type="application/json" class="shown-about">(?P<about>.*?)</script></div>',
    re.DOTALL,
)
"""A figure that `lotperm.studies.html.picture` wrote."""


def _put_pictures(
    app: Sphinx,
    doctree: nodes.document,
    docname: str,
    files: Sequence[tuple[nodes.Element, str]],
) -> None:
    """Put the pieces of pictures in HTML onto the page; what stands around them stays."""
    order = {id(node): i for i, node in enumerate(doctree.findall())}
    for raw in list(doctree.findall(nodes.raw)):
        text = raw.astext()
        if '<div class="shown">' not in text:
            continue
        data = _nearest(files, order, raw)
        pieces: list[nodes.Node] = []
        end = 0
        for found in _PICTURE.finditer(text):
            pieces.append(nodes.raw("", text[end : found.start()], format="html"))
            svg = base64.b64decode(found["svg"]).decode()
            about = json.loads(found["about"])
            image = nodes.image(uri=stored(app, svg), alt=html.unescape(found["alt"]))
            box = nodes.container(classes=["shown"])
            box += nodes.paragraph("", "", *_layouts(app, image, svg, about))
            box += nodes.raw("", found["below"], format="html")
            box += strip(docname, about["origins"], data)
            pieces.append(box)
            end = found.end()
        pieces.append(nodes.raw("", text[end:], format="html"))
        raw.replace_self(pieces)


def _nearest(
    files: Sequence[tuple[nodes.Element, str]], order: dict[int, int], node: nodes.Element
) -> str:
    """Return the data that are linked below a figure, or else the last of the page, or ""."""
    here = order[id(node)]
    later = [target for place, target in files if order.get(id(place), -1) > here]
    return (later or [target for _, target in files[-1:]] or [""])[0]


def _put_figures(
    app: Sphinx,
    doctree: nodes.document,
    docname: str,
    carried: dict[str, tuple[str, dict[str, Any]]],
    files: Sequence[tuple[nodes.Element, str]],
) -> None:
    order = {id(node): i for i, node in enumerate(doctree.findall())}
    for box in list(doctree.findall(nodes.container)):
        image = next(iter(box.findall(nodes.image)), None) if box.get("mime_type") == _SVG else None
        known = carried.get(Path(str(image["uri"])).stem) if image is not None else None
        if image is None or known is None:
            continue
        svg, about = known
        data = _nearest(files, order, box)
        box.children = []
        box += _layouts(app, image, svg, about)
        bundle = box.parent
        below = strip(docname, about["origins"], data)
        if isinstance(bundle.parent, nodes.figure):
            _conclude(bundle.parent, about.get("finding", ""))
            bundle.parent += nodes.legend("", below)
        else:
            bundle.parent.insert(bundle.parent.index(bundle) + 1, below)


_PANELS = {
    "lotperm-symmetry": "a network of two layers of four units",
    "lotperm-landscape": "a network with two weights",
    "lotperm-mask": "",
}
"""Class of an interactive figure -> what it computes in the browser; "" if it shows the page's numbers."""


def _put_panels(
    doctree: nodes.document, docname: str, carried: dict[str, tuple[str, dict[str, Any]]]
) -> None:
    """Put a strip below what is to be played with, too."""
    for raw in list(doctree.findall(nodes.raw)):
        name = next((name for name in _PANELS if f'class="{name}"' in raw.astext()), None)
        if name is None:
            continue
        origins = [Origin("live", _PANELS[name], device="browser", source=source_hash()).plain()]
        if not _PANELS[name]:
            known = (o for _, about in carried.values() for o in about["origins"])
            origins = [one for one in known if one["kind"] == "live"][:1]
        bundle = raw.parent.parent
        bundle.parent.insert(bundle.parent.index(bundle) + 1, strip(docname, origins))


def _conclude(figure: nodes.figure, words: str) -> None:
    """Let a caption end with what the numbers come to, which the notebook computed."""
    caption = next(iter(figure.findall(nodes.caption)), None)
    if caption is not None and words:
        caption += [nodes.Text(" "), nodes.inline("", words, classes=["finding"])]


def _mark_tables(doctree: nodes.document) -> None:
    """Mark wide tables: on a phone each row becomes a card."""
    for table in doctree.findall(nodes.table):
        group = next(iter(table.findall(nodes.tgroup)), None)
        # Those of the paper are cut into small ones, which fit.
        if "paper-table" in table.parent.get("classes", ()):
            continue
        if group is not None and group["cols"] >= _STACKED and any(table.findall(nodes.thead)):
            table["classes"].append("stacked")


def _heads(entry: nodes.entry) -> list[str]:
    """Return the heads of the table that a cell is in; none if it isn't stacked."""
    table = entry.parent.parent.parent.parent
    if "stacked" not in table["classes"]:
        return []
    head = next(iter(table.findall(nodes.thead)))
    return [cell.astext() for cell in head[0].children]


def _visit_entry(self: Any, node: nodes.entry) -> None:
    type(self).visit_entry(self, node)
    if heads := _heads(node):
        in_head = isinstance(node.parent.parent, nodes.thead)
        head = html.escape(heads[node.parent.index(node) % len(heads)])
        role = "columnheader" if in_head else "cell"
        label = "" if in_head else f' data-label="{head}"'
        _add(self, ("<td", "<th"), f' role="{role}"{label}')


def _visit_row(self: Any, node: nodes.row) -> None:
    type(self).visit_row(self, node)
    if "stacked" in node.parent.parent.parent["classes"]:
        _add(self, ("<tr",), ' role="row"')


def _visit_part(name: str) -> Any:
    def visit(self: Any, node: nodes.Element) -> None:
        getattr(type(self), f"visit_{name}")(self, node)
        if "stacked" in node.parent.parent["classes"]:
            _add(self, (f"<{name}",), ' role="rowgroup"')

    return visit


def _visit_table(self: Any, node: nodes.table) -> None:
    type(self).visit_table(self, node)
    if "stacked" in node["classes"]:
        _add(self, ("<table",), ' role="table"')


def _visit_legend(self: Any, node: nodes.legend) -> None:
    """Put the strip into the caption; docutils sees a caption in the second place alone, not below two pictures."""
    if not any(isinstance(beside, nodes.caption) for beside in node.parent):
        self.body.append("<figcaption>\n")
    self.body.append(self.starttag(node, "div", CLASS="legend"))


def _add(self: Any, tags: tuple[str, ...], attributes: str) -> None:
    """Add attributes to the tag that was opened last."""
    for i in range(len(self.body) - 1, max(-1, len(self.body) - 5), -1):
        piece = self.body[i]
        if piece.lstrip().startswith(tags):
            at = piece.index(">")
            self.body[i] = piece[:at] + attributes + piece[at:]
            return


def _depart(name: str) -> Any:
    return lambda self, node: getattr(type(self), f"depart_{name}")(self, node)


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the hooks; Sphinx calls this."""
    # Before Sphinx collects pictures and downloads of a page, at 500.
    app.connect("doctree-read", _on_read, priority=400)
    for node, visit in (
        (nodes.entry, _visit_entry),
        (nodes.row, _visit_row),
        (nodes.thead, _visit_part("thead")),
        (nodes.tbody, _visit_part("tbody")),
        (nodes.table, _visit_table),
        (nodes.legend, _visit_legend),
    ):
        app.add_node(node, override=True, html=(visit, _depart(node.__name__)))
    return metadata(__file__)
