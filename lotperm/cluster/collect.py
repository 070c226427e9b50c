"""The end of a sweep: its tables, or what failed."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from lotperm.cluster import campaign as campaigns
from lotperm.cluster.campaign import Campaign
from lotperm.cluster.folder import SweepFolder
from lotperm.cluster.worker import log_to_stdout
from lotperm.engine.runtime import Runtime
from lotperm.errors import StorageError, SweepError
from lotperm.store.stages import Store

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Collector:
    """The last job of a sweep on Slurm: it records the tables, or names what failed.

    Attributes
    ----------
    campaign : Path
        The campaign's file.
    store : Path
        Folder of the store.
    folder : SweepFolder
        The sweep's folder.
    results : Path or None
        Folder to record in; None: the campaign's.
    """

    campaign: Path
    store: Path
    folder: SweepFolder
    results: Path | None

    def __call__(self) -> None:
        """Record the tables, or raise what `collect` raises."""
        log_to_stdout()
        campaign, store = Campaign.load(self.campaign), Store(self.store)
        collect(campaign, store, self.folder, self.results, _log.info)


def collect(
    campaign: Campaign,
    store: Store,
    folder: SweepFolder,
    results: Path | None,
    say: Callable[[str], None],
) -> None:
    """Record the tables of a campaign whose stages are all there.

    Parameters
    ----------
    campaign : Campaign
        The sweep's campaign.
    store : Store
        Where its stages are kept.
    folder : SweepFolder
        Where failures are noted.
    results : Path or None
        Folder to record in; None: the campaign's.
    say : callable
        Called with a line for each entry that is recorded.

    Raises
    ------
    SweepError
        If stages are missing, naming the first that failed, why, and its log.
    StorageError
        If a data set isn't here any more.
    """
    if missing := campaign.missing(store, results):
        # A job that was killed leaves no note, so stages can be missing without a failure.
        failed = folder.failures()
        if failed:
            first = f"{failed[0]['label']}: {failed[0]['error']} Its log: {failed[0]['log']}."
        else:
            first = f"No job noted why: see the logs in {folder.logs}."
        raise SweepError(
            f"{len(missing)} stages are missing, {len(failed)} of them failed. {first} What is "
            "done is kept; the same command tries the rest again."
        )
    # Every stage is in the store, so nothing is trained here and the runtime doesn't matter.
    if skipped := campaigns.run(campaign, store, Runtime(), results, say):
        raise StorageError(f"not recorded, as a data set isn't here: {', '.join(skipped)}.")
