"""Where the numbers of a figure come from, which the strip below every figure of the book shows.

The numbers of a figure are live, from the page's own experiment, unless `attach` says otherwise.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from lotperm.config.experiment import Experiment
from lotperm.errors import LotpermError
from lotperm.store.provenance import source_hash
from lotperm.store.stages import Store
from lotperm.store.tasks import chain
from lotperm.studies import registry
from lotperm.studies.published import Recorded, book_folder
from lotperm.studies.records import load_record
from lotperm.studies.workbench import Workbench

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Kind = Literal["paper", "recorded", "live"]

NAMES = {
    "mnist1d": "MNIST-1D",
    "fashion_mnist": "Fashion-MNIST",
    "cifar10": "CIFAR-10",
    "cifar100": "CIFAR-100",
    "svhn": "SVHN",
    "imagefolder": "an image folder",
    "picture_crops": "crops of pictures",
    "cifar10_png": "CIFAR-10 as files",
    "mlp": "MLP",
    "cnn": "CNN",
    "resnet8": "ResNet8",
    "resnet20": "ResNet20",
    "resnet50": "ResNet50",
    "vgg11": "VGG11",
    "vit_tiny": "tiny ViT",
}
"""Data sets and networks as they are written in running text."""

# Hashed when the process starts: the files may be edited before it ends, but what was imported is
# what runs.
SOURCE = source_hash()


@dataclass(frozen=True)
class Origin:
    """Where numbers come from.

    Attributes
    ----------
    kind : {"paper", "recorded", "live"}
        Who computed them, and when.
    of : str
        Table, or data set and network.
    seeds : int, optional
        Number of seeds behind them.
    device : str
        The device that computed them.
    date : str
        The day, as 2026-11-29; "" for live numbers, which are as old as the page.
    source : str
        SHA-256 of the package's sources that computed them, 64 hex digits.
    fresh : bool, optional
        Whether today's sources compute the same; None if unknown, or for the paper's numbers.
    data : str
        File with the numbers, relative to the repository; "" where the page carries them.
    command : str
        The command that computes them again.
    """

    kind: Kind
    of: str
    seeds: int | None = None
    device: str = ""
    date: str = ""
    source: str = ""
    fresh: bool | None = None
    data: str = ""
    command: str = ""

    def plain(self) -> dict[str, Any]:
        """Return the origin as plain JSON data."""
        return asdict(self)

    def today(self) -> Origin:
        """Return the origin of live numbers with `fresh` as it is now; other origins unchanged."""
        if self.kind != "live":
            return self
        return replace(self, fresh=self.source == source_hash())


HERE = Origin("live", "")
"""Stands for the page that shows a figure, whichever that is."""


def subject(data: str, model: str, width: float = 1) -> str:
    """Name data set and network, such as "CIFAR-10, ResNet8×0.5"."""
    factor = "" if width == 1 else f"×{width:g}"
    return f"{NAMES.get(data, data)}, {NAMES.get(model, model)}{factor}"


def in_words(label: str) -> str:
    """Write the names in a label such as "recorded, mnist1d, mlp×1, laptop" as running text does."""
    parts = (part.partition("×") for part in label.split(", "))
    return ", ".join(
        NAMES.get(name, name) + ("" if factor in ("", "1") else f"×{factor}")
        for name, _, factor in parts
    )


def of_live(experiments: Sequence[Experiment], device: str, command: str) -> Origin:
    """Return the origin of what a page computes.

    Parameters
    ----------
    experiments : sequence of Experiment
        One for each width.
    device : str
        "cpu" or "cuda".
    command : str
        The command that repeats the page.
    """
    e = experiments[0]
    width = e.model.width if len(experiments) == 1 else 1
    return Origin(
        "live",
        f"{subject(e.data.name, e.model.name, width)}, profile {e.profile}",
        seeds=len(e.seeds),
        device=device,
        source=SOURCE,
        command=command,
    )


def of_table(*tables: int) -> Origin:
    """Return the origin of Tables 5 to 14 of the paper."""
    numbers = ", ".join(map(str, tables))
    words = f"Table{'s' if len(tables) > 1 else ''} {numbers}"
    return Origin("paper", words, date="2025", data="book/paper/tables_5_14.csv")


def of_file(name: str, words: str) -> Origin:
    """Return the origin of another table of published numbers, ``book/paper/<name>.csv``.

    Parameters
    ----------
    name : str
        The file's name without suffix.
    words : str
        What it is, for example "Table 1".
    """
    return Origin("paper", words, data=f"book/paper/{name}.csv")


def of_record(run: Recorded) -> Origin:
    """Return the origin of a recorded run.

    It is fresh if today's sources give every stage behind it the same key as then: what is computed
    is still the same, though other parts of the package may have changed.
    """
    e, how = run.experiment, run.how
    return Origin(
        "recorded",
        f"{subject(e['data']['name'], e['model']['name'], e['model']['width'])}, profile {e['profile']}",
        seeds=len(e["seeds"]),
        device=str(how.get("device", "")),
        date=str(how.get("created", ""))[:10],
        source=str(how.get("source", "")),
        fresh=_fresh(run.name),
        data=f"book/results/{run.name}/results.csv",
        command=_command(run),
    )


@cache
def _fresh(name: str) -> bool | None:
    """Compare a record's keys with those that its stages have by today's sources."""
    folder = book_folder() / "results" / name
    # What isn't in the repository can't be compared.
    if not folder.exists():
        return None
    content = load_record(folder)
    recorded_keys = {stage["key"] for stage in content["stages"]}
    try:
        study = registry.study(content.get("kind", "table"))
        experiment = Experiment.from_dict(content["experiment"])
        given = dict(content.get("options") or {})
        # Some tables were computed in groups of seeds, and older records don't say in which.
        sizes = range(1, len(experiment.seeds) + 1) if "together" in study.Options.names() else ()
        choices = [given, *({**given, "together": size} for size in sizes)]
        with tempfile.TemporaryDirectory() as empty:
            # An empty store, since keys must not depend on what a store holds.
            store = Store(Path(empty))
            for choice in choices:
                options = study.Options.parse(choice).completed(experiment)
                benches = [Workbench(e, store) for e in study.split(experiment, options)]
                tasks = chain(task for bench in benches for task in study.tasks(bench, options))
                if recorded_keys <= {task.key for task in tasks}:
                    return True
    # A record of a question or parameter that no longer exists can't be computed again.
    except (LotpermError, KeyError, TypeError):
        return False
    return False


def _command(run: Recorded) -> str:
    """Return the command that computed a record, where the repository has it; else ""."""
    campaigns = book_folder().parent / "campaigns"
    for path in sorted(campaigns.glob("*.yaml")):
        if run.name.startswith(f"{path.stem}_"):
            return f"lotperm campaign run campaigns/{path.name}"
    e = run.experiment
    given = {"profile": e["profile"], "dataset": e["data"]["name"]}
    # An older record lacks parameters that were added later.
    if Experiment.from_parameters(**given) == Experiment.from_dict(e):
        return f"lotperm experiment --profile {given['profile']} -p dataset={given['dataset']}"
    return ""


def attach(figure: Figure, *origins: Origin) -> Figure:
    """Say where a figure's numbers come from, and return the figure.

    Parameters
    ----------
    figure : Figure
        A figure with other numbers than the page's own.
    *origins : Origin
        The origins of all numbers that it draws.
    """
    figure._lotperm_origins = origins  # type: ignore[attr-defined]
    return figure


def describe(figure: Figure, alt: str) -> Figure:
    """Say in words what a figure shows, for those who can't see it, and return the figure.

    Parameters
    ----------
    figure : Figure
        The figure.
    alt : str
        What its numbers say, computed from them. It takes the place of the cell's text.
    """
    figure._lotperm_alt = alt  # type: ignore[attr-defined]
    return figure


def conclude(figure: Figure, words: str) -> Figure:
    """Attach a conclusion from a figure's numbers to its caption, and return the figure.

    Parameters
    ----------
    figure : Figure
        The figure.
    words : str
        A sentence or two, computed from what is drawn. They end the caption, whose other words only
        say how to read the figure.
    """
    figure._lotperm_finding = words  # type: ignore[attr-defined]
    return figure


def attached(figure: Figure) -> tuple[Origin, ...]:
    """Return the origins that `attach` gave a figure; empty if none."""
    found: tuple[Origin, ...] = getattr(figure, "_lotperm_origins", ())
    return found


def description(figure: Figure) -> str:
    """Return the description that `describe` gave a figure, or ""."""
    return str(getattr(figure, "_lotperm_alt", ""))


def finding(figure: Figure) -> str:
    """Return the conclusion that `conclude` gave a figure, or ""."""
    return str(getattr(figure, "_lotperm_finding", ""))
