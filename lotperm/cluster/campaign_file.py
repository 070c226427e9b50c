"""Campaign files: YAML or JSON, checked before anything runs."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from lotperm.cluster.entry import ENTRY_KEYS, Entry, options_of_kinds
from lotperm.config.experiment import Experiment
from lotperm.config.parameters import PARAMETERS
from lotperm.errors import ParameterError, StorageError, unknown_name
from lotperm.studies.registry import study

Plain = dict[str, Any]


def read_file(path: Path) -> Plain:
    """Read the content of a campaign file, and refuse a key that occurs twice in one place."""

    # Readers of JSON and YAML take the last of two equal keys without a word, and the other value
    # would be lost.
    def unique(pairs: Iterator[tuple[Any, Any]] | list[tuple[Any, Any]]) -> Plain:
        found: Plain = {}
        for key, value in pairs:
            if key in found:
                raise ParameterError(f"{path}: {key!r} is given twice in one place.")
            found[key] = value
        return found

    # JSON has no NaN and no Infinity, but Python's reader takes them.
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
            raise ParameterError(f"{path} isn't a campaign: expected a file .yaml, .yml or .json.")
    # A key may be a list, which can't be hashed, and brackets may be nested without end.
    except (ValueError, TypeError, RecursionError) as error:
        if isinstance(error, ParameterError):
            raise
        raise ParameterError(f"{path} can't be read: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise ParameterError(
            f"{path} isn't a campaign: expected the keys name, defaults and entries."
        )
    return content


def _yaml(text: str, path: Path, unique: Any) -> Any:
    try:
        # Imported here, as campaigns in JSON do without it.
        import yaml
    except ImportError:
        beside = path.with_suffix(".json")
        hint = f"Use {beside}" if beside.exists() else "Give the same content as a .json file"
        raise ParameterError(
            f"{path} is YAML, which needs PyYAML, and it isn't installed. {hint}, or: pip install pyyaml"
        ) from None

    # SafeLoader makes no objects of a file's choice, but takes the last of two equal keys.
    class Loader(yaml.SafeLoader):  # type: ignore[misc]
        def construct_mapping(self, node: Any, deep: bool = False) -> Plain:
            # What a mapping takes from another (<<) it may give anew; its own keys occur once.
            unique(
                (self.construct_object(key, deep=True), None)
                for key, _ in node.value
                if key.tag != "tag:yaml.org,2002:merge"
            )
            self.flatten_mapping(node)
            return {
                self.construct_object(key, deep=True): self.construct_object(value, deep=True)
                for key, value in node.value
            }

    Loader.add_constructor("tag:yaml.org,2002:map", Loader.construct_mapping)
    try:
        return yaml.load(text, Loader)
    except yaml.YAMLError as error:
        raise ParameterError(f"{path} is not YAML: {' '.join(str(error).split())}") from error


def require_known(where: str, given: Mapping[Any, Any], keys: Sequence[str]) -> None:
    """Raise `ParameterError` for the first key that isn't known, with the nearest name."""
    for key in given:
        if key not in keys:
            raise ParameterError(f"{where}: {unknown_name('key', str(key), keys)}")


def read_entry(item: Mapping[str, Any], label: str) -> Entry:
    """Read one entry, and check every value in it.

    Parameters
    ----------
    item : mapping
        Keys and values as in the file, the campaign's defaults among them.
    label : str
        Names the entry in errors.

    Raises
    ------
    ParameterError
        If anything makes no sense.
    """
    name, kind = item.get("name"), item.get("kind", "table")
    # The name becomes that of a folder, on any system.
    if not isinstance(name, str) or not re.fullmatch(r"[a-z0-9][a-z0-9_-]*", name):
        raise ParameterError(
            f"{label}: name is {name!r}; expected lower case letters, digits, '_' and '-'."
        )
    label = f"{label} ({name})"
    kinds = options_of_kinds()
    if not isinstance(kind, str) or kind not in kinds:
        raise ParameterError(f"{label}: {unknown_name('kind', str(kind), kinds)}")
    # An option that another kind has isn't unknown, so the error names that kind.
    for other, keys in kinds.items():
        if other != kind and (odd := [k for k in keys if k in item and k not in kinds[kind]]):
            raise ParameterError(
                f"{label}: {odd[0]!r} belongs to entries of kind {other!r}; this one is {kind!r}."
            )
    require_known(label, item, (*ENTRY_KEYS, *kinds[kind], *PARAMETERS))
    try:
        return _entry(name, kind, item)
    except ParameterError as error:
        raise ParameterError(f"{label}: {error}") from None


def _entry(name: str, kind: str, item: Mapping[str, Any]) -> Entry:
    """Make an entry whose keys are known."""
    asked = study(kind)
    options = asked.Options.parse(item)
    experiments = [part for e in _experiments(item) for part in asked.split(e, options)]
    # Completing also checks: the options must make sense for every width and group of seeds.
    for experiment in experiments:
        options = options.completed(experiment)
    compile, members = item.get("compile"), item.get("members")
    if not isinstance(compile, bool | None):
        raise ParameterError(f"compile is {compile!r}; expected true or false.")
    if members is not None and (members := PARAMETERS["epochs"].parse("members", members)) < 1:
        raise ParameterError(f"members is {members}; expected 1 or more.")
    return Entry(
        name=name,
        kind=kind,
        experiments=tuple(experiments),
        options=options,
        compile=bool(compile),
        members=members,
    )


def _experiments(item: Mapping[str, Any]) -> list[Experiment]:
    """Make the experiments of an entry, one for each width."""
    parameters = {
        key: value for key, value in item.items() if key in PARAMETERS and key != "widths"
    }
    figure, widths = item.get("figure"), item.get("widths")
    if figure is not None:
        experiments = Experiment.for_figure(str(figure), widths=widths, **parameters)
    elif widths is not None:
        # Flat parameters describe a single experiment.
        raise ParameterError("widths needs a figure; without one, give width.")
    else:
        experiments = [Experiment.from_parameters(**parameters)]
    if (keep := item.get("keep")) is not None:
        # Read as rewind epochs are: one whole number or several.
        kept = PARAMETERS["rewind_epoch"].parse("keep", keep)
        experiments = [dataclasses.replace(e, keep=kept) for e in experiments]
    return experiments
