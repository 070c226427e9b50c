"""The page of the overlap."""

from typing import Any, ClassVar

import matplotlib.pyplot as plt
import pandas as pd
from lotperm.studies.overlap.study import STUDY
from matplotlib.figure import Figure

from lotperm.studies import page
from lotperm.studies.study import Study


class Page(page.Page):
    """Shows how much tickets have in common."""

    study: ClassVar[Study[Any]] = STUDY

    def table(self) -> pd.DataFrame:
        """Return the table of the first width."""
        return STUDY.table(self.pipeline, self.options)

    def shares(self) -> Figure:
        """Draw the shares."""
        figure, ax = plt.subplots()
        ax.bar(self.table().index, self.table()["share"])
        return figure
