"""What the book adds to Sphinx: docstrings as the package writes them, tables from data,
accessible names, one page.
"""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.util.docutils import SphinxDirective

_DESCRIBED = ("Parameters", "Attributes", "Other Parameters", "Yields")
_ENTRY = re.compile(r"(?P<names>\*{0,2}\w+(?:, \*{0,2}\w+)*) : (?P<text>.+)")
_SIGN = re.compile(r"(`+).*?\1|(?P<sign>\||(?<=, )\*(?=\w+[^\w*]))")


def _literal(line: str) -> str:
    """Signs that mean themselves: |x| is no substitution, (B, *spatial) no emphasis. Code is
    left alone.
    """
    return _SIGN.sub(lambda match: "\\" + match[0] if match["sign"] else match[0], line)


def describe(lines: list[str]) -> list[str]:
    """Put what a docstring says after ``name :`` where NumPy's style has the description.

    The package writes ``name : what it is``, because the type stands in the signature; Sphinx's
    reader of this style takes all that follows the colon for a type.
    """
    out: list[str] = []
    described = False
    for i, line in enumerate(lines):
        following = lines[i + 1] if i + 1 < len(lines) else ""
        if re.fullmatch(r"-{3,}", following):
            described = line in _DESCRIBED
        entry = _ENTRY.fullmatch(line) if described else None
        if not entry:
            out.append(_literal(line))
            continue
        text = entry["text"]
        if re.match(r" +[A-Z]", following) and re.search(r"[\w)]$", text):
            text += "."  # "Tensor, shape (B, n)", then a sentence
        out += [entry["names"], "    " + _literal(text)]
    return out


def _before_napoleon(
    _app: Any, _what: str, _name: str, _obj: Any, options: Any, lines: list[str]
) -> None:
    lines[:] = describe(lines)
    options["lotperm_lines"] = list(lines)


def _after_napoleon(
    _app: Any, what: str, _name: str, _obj: Any, options: Any, lines: list[str]
) -> None:
    # It takes what stands before the first colon of these for a type, too.
    if what in ("attribute", "data", "property"):
        lines[:] = options["lotperm_lines"]


class _Table(SphinxDirective):
    """A table whose rows are data; its argument is the caption, its option ``:name:`` what
    refers to it.
    """

    has_content = False
    optional_arguments = 1
    final_argument_whitespace = True
    option_spec = {"name": str}  # noqa: RUF012 (as docutils has it)

    def rows(self) -> list[dict[str, Any]]:
        raise NotImplementedError

    def run(self) -> list[nodes.Node]:
        rows = self.rows()
        if not rows:
            return self.parse_text_to_nodes("*Not recorded yet.*")
        cells = [
            [str(name).replace("_", " ") for name in rows[0]],
            *([_cell(v) for v in row.values()] for row in rows),
        ]
        lines = [
            f"{'* -' if i == 0 else '  -'} {cell}" for row in cells for i, cell in enumerate(row)
        ]
        name = f":name: {self.options['name']}\n" if "name" in self.options else ""
        caption = self.arguments[0] if self.arguments else ""
        text = "\n".join(
            [f"```{{list-table}} {caption}", f"{name}:header-rows: 1\n", *lines, "```"]
        )
        return self.parse_text_to_nodes(text)


def _cell(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return str(value)


class Costs(_Table):
    """What a page costs at each profile: the rows of ``results/costs.json``, as they were
    recorded.
    """

    def rows(self) -> list[dict[str, Any]]:
        path = Path(self.env.srcdir) / "book" / "results" / "costs.json"
        self.env.note_dependency(str(path))
        return json.loads(path.read_text(encoding="utf-8"))["rows"] if path.exists() else []


class Parameters(_Table):
    """Every parameter of an experiment, from the package."""

    def rows(self) -> list[dict[str, Any]]:
        from lotperm.config import parameters

        self.env.note_dependency(str(parameters.__file__))
        return [
            {"parameter": f"`{name}`", "value": parameter.kind, "meaning": parameter.meaning}
            for name, parameter in parameters.PARAMETERS.items()
        ]


class Plans(_Table):
    """What every figure costs at the paper's scale, on one H100: a row each."""

    def rows(self) -> list[dict[str, Any]]:
        from lotperm.config.presets import FIGURES

        rows = []
        for name in FIGURES:
            found = _plan(self, name)
            apart = {
                f"× {what}": f"{x.flops / found.total.flops:.1f}"
                for what, x in zip(
                    ("by sparsity", "by arm"), found.separately.values(), strict=True
                )
            }
            (row,) = found.rows()[-1:]
            kept = {
                key: row[key]
                for key in ("networks", "epochs", "trained", "FLOP", "hours", "device", "disk")
            }
            rows.append({"figure": f"`{name}`", **kept, **apart})
        return rows


class Plan(_Table):
    """The stages of a figure at the paper's scale, on one H100; its options name the figure."""

    option_spec = {**_Table.option_spec, "figure": str}  # noqa: RUF012

    def rows(self) -> list[dict[str, Any]]:
        rows = _plan(self, self.options["figure"]).rows()
        left_out = ("stages", "forward", "host")
        return [{key: text for key, text in row.items() if key not in left_out} for row in rows]


class Growth(_Table):
    """How the cost of a figure grows; its options name the figure."""

    option_spec = {**_Table.option_spec, "figure": str}  # noqa: RUF012

    def rows(self) -> list[dict[str, Any]]:
        from lotperm.cluster import plan

        _plan(self, self.options["figure"])
        part = plan.figure(self.options["figure"], profile="paper")
        return list(plan.growth(part, plan.Estimator("h100")))


def _plan(table: _Table, figure: str) -> Any:
    """A figure's plan; the page is made anew when what it rests on changes."""
    from lotperm.cluster import costs, plan
    from lotperm.config import experiment, parameters, presets
    from lotperm.studies import pipeline

    for module in (experiment, parameters, presets, costs, pipeline, plan):
        table.env.note_dependency(str(module.__file__))
    table.env.note_dependency(str(Path(table.env.srcdir) / "book" / "results" / "throughput.json"))
    return plan.plan([plan.figure(figure, profile="paper")], plan.Estimator("h100"))


def _on_builder(app: Any) -> None:
    # An extension that registers nodes for singlehtml only hides all those that are registered for
    # html.
    handlers = app.registry.translation_handlers
    handlers["singlehtml"] = {**handlers.get("html", {}), **handlers.get("singlehtml", {})}


# Names that the theme and its extensions give in ways which WCAG 2.2 (2.5.3, 4.1.2) or ARIA 1.2
# don't allow.
_NAMES = (
    # A label that hides the text which is visible: the text itself is the name.
    (re.compile(r'(<summary) aria-label="Toggle hidden content"'), r"\1"),
    (
        re.compile(
            r'(<button class="btn search-button-field[^>]*) title="Search" aria-label="Search"'
        ),
        r"\1",
    ),
    # One of three pictures is visible; its title counts as the button's text beside the button's
    # own label.
    (re.compile(r'(<i class="theme-switch [^>]*?) +title="[^"]*"'), r"\1"),
    # A deprecated role; what holds it is a list.
    (re.compile(r'(<div class="citation"[^>]*) role="doc-biblioentry"'), r'\1 role="listitem"'),
)


def _on_finish(app: Any, exception: Exception | None) -> None:
    if exception is None and app.builder.format == "html":
        for path in Path(app.outdir).rglob("*.html"):
            text = new = path.read_text(encoding="utf-8")
            for pattern, replacement in _NAMES:
                new = pattern.sub(replacement, new)
            if new != text:
                path.write_text(new, encoding="utf-8")


def setup(app: Any) -> dict[str, Any]:
    """Called by Sphinx."""
    app.connect(
        "autodoc-process-docstring", _before_napoleon, priority=400
    )  # napoleon itself has 500
    app.connect("autodoc-process-docstring", _after_napoleon, priority=600)
    app.add_directive("costs", Costs)
    app.add_directive("parameters", Parameters)
    app.add_directive("plans", Plans)
    app.add_directive("plan", Plan)
    app.add_directive("growth", Growth)
    app.connect("builder-inited", _on_builder)
    app.connect("build-finished", _on_finish)
    # After an edit of this file all pages are read again.
    version = int(hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:8], 16)
    return {
        "version": "1",
        "env_version": version,
        "parallel_read_safe": True,
        "parallel_write_safe": True,
    }
