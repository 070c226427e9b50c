"""Answers that the page checks: a number, or a choice. They stand below an exercise, whose solution explains.

A number::

    ```{check} ex-orders
    :answer: 24
    :unit: orders
    :hint: The first unit can go to four places, the next one to three.
    ```

The option ``:within:`` says how far off an answer may be, and ``:compute: module:function 5 0.95`` takes
the answer from the package instead, with numbers as its arguments, so that it follows the data. A number
that is computed on the page itself is asked for by its cell, with `lotperm.studies.page.Page.ask`. A choice
has a line for each answer, with what is said to who chooses it; the right one is marked::

    ```{check} ex-order
    - [ ] They are the same :: Their weights differ.
    - [x] The function is the same :: Yes: a sum doesn't depend on the order of its terms.
    ```
"""

from __future__ import annotations

import html
import importlib
import re
from typing import Any

from docutils import nodes
from metadata import metadata
from shown import note_numbers
from sphinx.util.docutils import SphinxDirective

from lotperm.studies.html import number_form

_CHOICE = re.compile(r"- \[(?P<mark>[ x])\] (?P<words>.+?) :: (?P<said>.+)")


class Check(SphinxDirective):
    """A form that checks an answer; the argument is the label of its exercise."""

    required_arguments = 1
    has_content = True
    option_spec = {  # noqa: RUF012 (as docutils has it)
        "answer": float,
        "compute": str,
        "within": float,
        "unit": str,
        "hint": str,
    }

    def run(self) -> list[nodes.Node]:
        name = self.arguments[0]
        if self.content:
            return [nodes.raw("", self._choice(name), format="html")]
        if ("answer" in self.options) == ("compute" in self.options):
            raise self.error(f"{name}: give choices, :answer: or :compute:, one of them.")
        return [nodes.raw("", self._number(name), format="html")]

    def _number(self, name: str) -> str:
        answer = self.options.get("answer")
        if answer is None:
            place, *given = self.options["compute"].split()
            module, _, function = place.partition(":")
            called = getattr(importlib.import_module(module), function)
            note_numbers(self.env)
            answer = called(*map(float, given))
        options = {k: v for k, v in self.options.items() if k in ("within", "unit", "hint")}
        return number_form(name, answer, **options)

    def _choice(self, name: str) -> str:
        # A choice may run over several lines.
        text = re.sub(r"\n(?!- \[)\s*", " ", "\n".join(self.content))
        found = [_CHOICE.fullmatch(line.strip()) for line in text.splitlines() if line.strip()]
        if None in found or sum(match["mark"] == "x" for match in found if match) != 1:
            raise self.error(
                f"{name}: each choice is a line '- [ ] words :: what is said'; one has an x."
            )
        labels = "".join(
            f'<label><input type="radio" name="answer" value="{i}" data-said="{html.escape(match["said"])}"'
            f"{' data-right' if match['mark'] == 'x' else ''}> {html.escape(match['words'])}</label>"
            for i, match in enumerate(found)
            if match
        )
        return (
            f'<form class="check" data-check="{name}"><fieldset><legend>Choose an answer</legend>'
            f'{labels}</fieldset><button type="submit">Check</button><output aria-live="polite"></output></form>'
        )


def setup(app: Any) -> dict[str, Any]:
    """Register the directive; Sphinx calls this."""
    app.add_directive("check", Check)
    return metadata(__file__)
