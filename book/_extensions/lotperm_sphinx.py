"""The book's additions to Sphinx: the pages of the package, tables made from data, accessible names."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import json
import os
import pkgutil
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, get_type_hints

from docutils import nodes
from docutils.parsers.rst import directives
from metadata import metadata
from sphinx.util.docutils import SphinxDirective
from sphinx.util.inspect import stringify_signature


class Package(SphinxDirective):
    """A section for each module of a package, made from its docstrings.

    The argument names the package. The option ``:order:`` lists its modules and subpackages in the
    order in which they are shown; ``:except:`` those that are left out. One that is in neither is
    an error, so that no module is forgotten.
    """

    required_arguments = 1
    option_spec = {"order": str, "except": str}  # noqa: RUF012 (as docutils has it)

    def run(self) -> list[nodes.Node]:
        package = importlib.import_module(self.arguments[0])
        order = self.options["order"].split()
        named = {*order, *self.options.get("except", "").split()}
        found = {name.removeprefix(f"{package.__name__}.") for name in self._inside(package)}
        if found != named:
            raise self.error(
                f"{package.__name__} has {sorted(found - named)}, which the directive doesn't name, "
                f"and lacks {sorted(named - found)}: mend its options."
            )
        lines: list[str] = []
        for name in order:
            room = importlib.import_module(f"{package.__name__}.{name}")
            for depth, module in self._walk(room):
                lines += [
                    f"({module.replace('.', '-').replace('_', '-')})=",
                    f"{'#' * min(depth + 2, 4)} {module}\n",
                    "```{eval-rst}",
                    f".. automodule:: {module}",
                    "   :members:",
                    "   :ignore-module-all:",
                    "   :show-inheritance:",
                    "```\n",
                ]
        return self.parse_text_to_nodes("\n".join(lines), allow_section_headings=True)

    def _walk(self, module: ModuleType, depth: int = 0) -> Iterator[tuple[int, str]]:
        """Yield the module and all modules inside it, each with its depth."""
        yield depth, module.__name__
        for name in self._inside(module):
            yield from self._walk(importlib.import_module(name), depth + 1)

    def _inside(self, module: ModuleType) -> list[str]:
        """List the full names of the public modules directly inside a package."""
        if not hasattr(module, "__path__"):
            return []
        self.env.note_dependency(module.__path__[0])  # its time changes when a module is added
        return [
            f"{module.__name__}.{found.name}"
            for found in pkgutil.iter_modules(module.__path__)
            if not found.name.startswith("_")
        ]


class Exports(SphinxDirective):
    """A table of the functions and classes in a module's ``__all__``, each linked to where it is defined."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        module = importlib.import_module(self.arguments[0])
        self.env.note_dependency(str(module.__file__))
        exported = [getattr(module, name) for name in module.__all__]
        names = [
            f"   ~{x.__module__}.{x.__qualname__}"
            for x in exported
            if inspect.isclass(x) or inspect.isfunction(x)
        ]
        text = ["```{eval-rst}", ".. autosummary::", "   :nosignatures:", "", *names, "```"]
        return self.parse_text_to_nodes("\n".join(text))


class _Table(SphinxDirective):
    """A table whose rows are data.

    Its argument is the caption, its option ``:name:`` the label.
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
    """The cost of each page at each profile, as recorded in ``results/costs.json``."""

    def rows(self) -> list[dict[str, Any]]:
        path = Path(self.env.srcdir) / "book" / "results" / "costs.json"
        self.env.note_dependency(str(path))
        return json.loads(path.read_text(encoding="utf-8"))["rows"] if path.exists() else []


class Parameters(_Table):
    """Every parameter of an experiment, from the package."""

    def rows(self) -> list[dict[str, Any]]:
        from lotperm.config.parameters import PARAMETERS

        _note_package(self)
        return [
            {**parameter.row(), "parameter": f"`{parameter.name}`"}
            for parameter in PARAMETERS.values()
        ]


class Plans(_Table):
    """The cost of every figure at the paper's scale, on one H100: a row each."""

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
    """The growth of a figure's cost with its parameters; its options name the figure."""

    option_spec = {**_Table.option_spec, "figure": str}  # noqa: RUF012

    def rows(self) -> list[dict[str, Any]]:
        from lotperm.cluster import plan

        _plan(self, self.options["figure"])
        part = plan.figure(self.options["figure"], profile="paper")
        return list(plan.growth(part, plan.Estimator("h100")))


def _plan(table: _Table, figure: str) -> Any:
    """Plan a figure at the paper's scale; the page is made anew when what it rests on changes."""
    from lotperm.cluster import plan

    _note_package(table)
    table.env.note_dependency(str(Path(table.env.srcdir) / "book" / "results" / "throughput.json"))
    return plan.plan([plan.figure(figure, profile="paper")], plan.Estimator("h100"))


class Summary(SphinxDirective):
    """The summary of a recorded table, as a section; its argument names the folder in ``results``.

    The record stays as it was written; its profile is called by its name of today. With the option
    ``:folded:``, for a place that can't hold a section, the heading is no section's.
    """

    required_arguments = 1
    option_spec = {"folded": directives.flag}  # noqa: RUF012 (as docutils has it)

    def run(self) -> list[nodes.Node]:
        path = Path(self.env.srcdir) / "book" / "results" / self.arguments[0] / "summary.md"
        self.env.note_dependency(str(path))
        head, _, body = path.read_text(encoding="utf-8").partition("\n")
        heading = self.heading(head)
        # A row for each seed, where the table has means.
        file = f"results/{self.arguments[0]}/results.csv"
        body = f"{body.strip()}\n\n{{download}}`Every seed's numbers as CSV <{file}>`"
        if "folded" in self.options:
            return [nodes.rubric(heading, heading), *self.parse_text_to_nodes(body.strip())]
        text = f"### {heading}\n\n{body.strip()}"
        return self.parse_text_to_nodes(text, allow_section_headings=True)

    @staticmethod
    def heading(line: str) -> str:
        """Return the heading that a record's first line gives it."""
        from lotperm.config.profiles import current_profile

        what, _, profile = line.removeprefix("# ").rpartition(" ")
        return f"{what} {current_profile(profile)}"


def _note_package(directive: SphinxDirective) -> None:
    """Make the page anew when any source of the package changes."""
    import lotperm

    for path in Path(lotperm.__path__[0]).rglob("*"):
        if path.suffix in (".py", ".toml"):
            directive.env.note_dependency(str(path))


def _on_signature(
    _app: Any, what: str, _name: str, obj: Any, _options: Any, signature: str | None, returns: Any
) -> tuple[str | None, Any] | None:
    """Show what callers of a data class see: no private fields, and types without their checks."""
    if what != "class" or not dataclasses.is_dataclass(obj) or not signature:
        return None
    hints = get_type_hints(obj)  # without the extras of Annotated
    shown = [
        parameter.replace(annotation=hints.get(parameter.name, parameter.annotation))
        for parameter in inspect.signature(obj).parameters.values()
        if not parameter.name.startswith("_")
    ]
    short = stringify_signature(inspect.Signature(shown), unqualified_typehints=True)
    return short, returns


def _on_builder(app: Any) -> None:
    # If an extension registers nodes for singlehtml only, all those for html would be hidden there.
    handlers = app.registry.translation_handlers
    handlers["singlehtml"] = {**handlers.get("html", {}), **handlers.get("singlehtml", {})}


# The theme and its extensions give some names in ways that WCAG 2.2 (2.5.3, 4.1.2) or ARIA 1.2
# doesn't allow.
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
    # Pictures wait until a reader gets near them; those of the other layout are never asked for.
    (re.compile(r"<img (?=[^>]*figure-(?:wide|narrow))"), r'<img loading="lazy" '),
    # A deprecated role; what holds it is a list.
    (re.compile(r'(<div class="citation"[^>]*) role="doc-biblioentry"'), r'\1 role="listitem"'),
)


_SPREAD = re.compile(r'(<p class="spread">)([^<]+)(</p>)')
"""What ± means, below a table that a notebook wrote, which can't know where the page will be."""


def _on_finish(app: Any, exception: Exception | None) -> None:
    if exception is None and app.builder.format == "html":
        statistics = Path(app.outdir) / "book" / "statistics.html"
        for path in Path(app.outdir).rglob("*.html"):
            text = new = path.read_text(encoding="utf-8")
            for pattern, replacement in _NAMES:
                new = pattern.sub(replacement, new)
            if statistics.exists():
                link = Path(os.path.relpath(statistics, path.parent)).as_posix()
                new = _SPREAD.sub(rf'\1<a href="{link}">\2</a>\3', new)
            if new != text:
                path.write_text(new, encoding="utf-8")


def setup(app: Any) -> dict[str, Any]:
    """Register the directives and hooks; Sphinx calls this."""
    app.add_directive("package", Package)
    app.add_directive("exports", Exports)
    app.add_directive("costs", Costs)
    app.add_directive("parameters", Parameters)
    app.add_directive("plans", Plans)
    app.add_directive("plan", Plan)
    app.add_directive("growth", Growth)
    app.add_directive("summary", Summary)
    app.connect("autodoc-process-signature", _on_signature)
    app.connect("builder-inited", _on_builder)
    app.connect("build-finished", _on_finish)
    return metadata(__file__)
