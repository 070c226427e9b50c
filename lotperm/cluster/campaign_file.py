"""Campaign files: YAML or JSON, checked before anything runs."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from lotperm.cluster.entry import ENTRY, KINDS, RUNTIME, Entry, Plain
from lotperm.config.experiment import Experiment
from lotperm.config.parameters import PARAMETERS
from lotperm.errors import ParameterError, StorageError, unknown_name
from lotperm.science.barrier import REPAIRS
from lotperm.studies.pipeline import kept_epochs


def read_file(path: Path) -> Plain:
    """The content of a campaign file; a key that stands twice is refused, as one of the values
    would be lost.
    """

    def unique(pairs: Iterator[tuple[Any, Any]] | list[tuple[Any, Any]]) -> Plain:
        found: Plain = {}
        for key, value in pairs:
            if key in found:
                raise ParameterError(f"{path}: {key!r} stands twice in one place.")
            found[key] = value
        return found

    def refuse(text: str) -> NoReturn:
        raise ParameterError(f"{path} holds {text}; expected finite numbers.")

    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise StorageError(f"cannot read campaign {path}: {error.strerror or error}.") from error
    except UnicodeDecodeError as error:
        raise ParameterError(f"{path} is not text in UTF-8: {error}.") from error
    try:
        if path.suffix == ".json":
            content = json.loads(text, object_pairs_hook=unique, parse_constant=refuse)
        elif path.suffix in (".yaml", ".yml"):
            content = _yaml(text, path, unique)
        else:
            raise ParameterError(f"{path} is no campaign: expected a file .yaml, .yml or .json.")
    except (ValueError, TypeError, RecursionError) as error:
        if isinstance(error, ParameterError):
            raise
        raise ParameterError(f"{path} can't be read: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise ParameterError(
            f"{path} is no campaign: expected the keys name, defaults and entries."
        )
    return content


def _yaml(text: str, path: Path, unique: Any) -> Any:
    try:
        import yaml
    except ImportError:
        beside = path.with_suffix(".json")
        hint = f"Use {beside}" if beside.exists() else "Give the same content as a .json file"
        raise ParameterError(
            f"{path} is YAML, which needs PyYAML, and it isn't installed. {hint}, or: pip install pyyaml"
        ) from None

    class Loader(yaml.SafeLoader):  # type: ignore[misc]
        def construct_mapping(self, node: Any, deep: bool = False) -> Plain:
            self.flatten_mapping(node)
            return unique(
                (self.construct_object(key, deep=True), self.construct_object(value, deep=True))
                for key, value in node.value
            )

    Loader.add_constructor("tag:yaml.org,2002:map", Loader.construct_mapping)
    try:
        return yaml.load(text, Loader)
    except yaml.YAMLError as error:
        raise ParameterError(f"{path} is not YAML: {' '.join(str(error).split())}") from error


def require_known(where: str, given: Mapping[Any, Any], keys: Sequence[str]) -> None:
    for key in given:
        if key not in keys:
            raise ParameterError(f"{where}: {unknown_name('key', str(key), keys)}")


def read_entry(item: Plain, label: str) -> Entry:
    """One entry, checked."""
    name, kind = item.get("name"), item.get("kind", "table")
    if not isinstance(name, str) or not re.fullmatch(r"[a-z0-9][a-z0-9_-]*", name):
        raise ParameterError(
            f"{label}: name is {name!r}; expected lower case letters, digits, '_' and '-'."
        )
    label = f"{label} ({name})"
    if not isinstance(kind, str) or kind not in KINDS:
        raise ParameterError(f"{label}: {unknown_name('kind', str(kind), KINDS)}")
    for other, keys in KINDS.items():
        if other != kind and (odd := [key for key in keys if key in item]):
            raise ParameterError(
                f"{label}: {odd[0]!r} belongs to entries of kind {other!r}; this one is {kind!r}."
            )
    require_known(label, item, (*ENTRY, *KINDS[kind], *PARAMETERS))
    parameters = {
        key: value for key, value in item.items() if key in PARAMETERS and key != "widths"
    }
    figure, widths = item.get("figure"), item.get("widths")
    try:
        if figure is None:
            if widths is not None:
                raise ParameterError("widths needs a figure; without one, give width.")
            experiments = [Experiment.from_parameters(**parameters)]
        else:
            experiments = Experiment.for_figure(str(figure), widths=widths, **parameters)
        if (keep := item.get("keep")) is not None:
            kept = PARAMETERS["rewind_epoch"].parse("keep", keep)
            experiments = [dataclasses.replace(e, keep=kept) for e in experiments]
        options = {key: item.get(key, default) for key, default in KINDS[kind].items()}
        if (together := options.pop("together", None)) is not None:
            size = PARAMETERS["epochs"].parse("together", together)
            if size < 1:
                raise ParameterError(f"together is {size}; expected 1 or more.")
            experiments = [
                dataclasses.replace(e, seeds=e.seeds[first : first + size])
                for e in experiments
                for first in range(0, len(e.seeds), size)
            ]
        options |= {key: item[key] for key in RUNTIME if item.get(key) is not None}
        for experiment in experiments:
            _check_options(kind, options, experiment)
    except ParameterError as error:
        raise ParameterError(f"{label}: {error}") from None
    return Entry(name, kind, tuple(experiments), options)


def _check_options(kind: str, options: Plain, experiment: Experiment) -> None:
    """Bring the options of an entry into their types, or refuse them."""
    if not isinstance(options.get("compile", False), bool):
        raise ParameterError(f"compile is {options['compile']!r}; expected true or false.")
    for key in ("members", "replicates"):
        if options.get(key) is not None:
            options[key] = PARAMETERS["epochs"].parse(key, options[key])
            if options[key] < 1:
                raise ParameterError(f"{key} is {options[key]}; expected 1 or more.")
    if kind == "early":
        kept = kept_epochs(experiment)
        given = options["match_epochs"] if options["match_epochs"] is not None else kept
        options["match_epochs"] = list(PARAMETERS["rewind_epoch"].parse("match_epochs", given))
        for t in options["match_epochs"]:
            if t not in kept:
                raise ParameterError(
                    f"match_epochs has {t}; expected epochs that are kept: {kept}."
                )
        _once("match_epochs", options["match_epochs"])
    elif kind == "diversity" and len(experiment.seeds) < 2:
        raise ParameterError("diversity compares networks with each other: give two seeds or more.")
    elif kind == "connectivity":
        options["alphas"] = list(PARAMETERS["sparsity"].parse("alphas", options["alphas"]))
        if len(options["alphas"]) < 3 or not all(0 <= a <= 1 for a in options["alphas"]):
            raise ParameterError(
                f"alphas is {options['alphas']}; expected three numbers or more from 0 to 1."
            )
        repairs = options["repairs"]
        options["repairs"] = list(repairs) if isinstance(repairs, list | tuple) else [repairs]
        for repair in options["repairs"]:
            if repair not in REPAIRS:
                raise unknown_name("repair", str(repair), REPAIRS)
        _once("alphas", options["alphas"])
        _once("repairs", options["repairs"])


def _once(name: str, values: Sequence[Any]) -> None:
    if not values or len(set(values)) != len(values):
        raise ParameterError(f"{name} is {values}; expected one value or more, none twice.")
