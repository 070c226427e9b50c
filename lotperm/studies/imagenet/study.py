"""ResNet50 on an image folder: the three arms, and the lines between its dense networks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from lotperm.config.choices import IMAGE_FOLDERS
from lotperm.config.experiment import Experiment
from lotperm.errors import ParameterError
from lotperm.store.tasks import Task
from lotperm.studies.arms import study as arms
from lotperm.studies.connectivity import study as lines
from lotperm.studies.connectivity.study import ConnectivityOptions
from lotperm.studies.study import Study
from lotperm.studies.workbench import Workbench


class ImageNet(Study[ConnectivityOptions]):
    """Compare the arms, and look at the lines, of networks that read files."""

    name = "imagenet"
    Options = ConnectivityOptions
    columns = arms.STUDY.columns

    def tasks(self, bench: Workbench, options: ConnectivityOptions) -> list[Task]:
        """List the arms of every cell and the lines of the dense networks."""
        return [
            *arms.STUDY.tasks(bench, arms.ArmsOptions()),
            *lines.STUDY.tasks(bench, options),
        ]

    def table(self, bench: Workbench, options: ConnectivityOptions) -> pd.DataFrame:
        """Return accuracies and losses of the arms, as `Results.table`."""
        return arms.STUDY.table(bench, arms.ArmsOptions())

    def record(
        self, benches: Sequence[Workbench], options: ConnectivityOptions, folder: Path
    ) -> None:
        """Write the record of the arms, and that of the lines into a folder beside it."""
        arms.STUDY.record(benches, arms.ArmsOptions(), folder)
        # Lines have other columns than the arms, so they make a record of their own.
        lines.STUDY.record(benches, options, folder.with_name(f"{folder.name}_lines"))

    @property
    def page_parameters(self) -> tuple[str, ...]:
        """Names of the page's parameters: those of the page of lines."""
        return lines.STUDY.page_parameters

    def page_options(self, **parameters: Any) -> ConnectivityOptions:
        """Make the options of the lines; see `lotperm.studies.connectivity`."""
        # Five points by default, since each is a pass over images that are read from files.
        return lines.STUDY.page_options(**{"points": 5, **parameters})

    def check_page(self, experiment: Experiment, options: ConnectivityOptions) -> None:
        """Refuse data that aren't image files."""
        if (name := experiment.data.name) not in IMAGE_FOLDERS:
            raise ParameterError(
                f"dataset is {name!r}; expected an image folder: {', '.join(IMAGE_FOLDERS)}."
            )

    def chapter(self, benches: Sequence[Workbench], options: ConnectivityOptions) -> list[Task]:
        """List the arms and the lines at every width."""
        return [t for b in benches for t in self.tasks(b, lines.STUDY.of_page(b, options))]


STUDY = ImageNet()
