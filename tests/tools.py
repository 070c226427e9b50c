"""The programs that the tests of the site need: a browser, and Node for its scripts."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

from filelock import FileLock

from lotperm.site.pdf import find_browser


@cache
def chromium() -> str:
    """Return the path of Chromium or Chrome, which is installed first if there is none.

    ``LOTPERM_BROWSER`` names another one. Debian's package is tried, then Playwright's own.

    Raises
    ------
    RuntimeError
        If none can be installed: a test that needs it must fail, not be skipped.
    """
    if found := find_browser():
        return found
    # Several processes share the tests.
    with FileLock(Path(tempfile.gettempdir()) / "lotperm-chromium.lock"):
        return find_browser() or _install()


def _install() -> str:
    tried = []
    for command in _installations():
        done = subprocess.run(command, shell=True, capture_output=True, text=True, check=False)
        found = find_browser() or _playwrights()
        if done.returncode == 0 and found:
            return found
        tried.append(
            f"`{command}` ended with {done.returncode}: {(done.stderr or done.stdout).strip()[-200:]}"
        )
    raise RuntimeError(
        "the tests of the site need Chromium or Chrome; none was found. Install one, or name it in LOTPERM_BROWSER. "
        + " ".join(tried)
    )


def _installations() -> list[str]:
    """Return the commands that may install a browser on this machine."""
    root = "" if os.name == "posix" and os.geteuid() == 0 else "sudo -n "
    apt = f"{root}apt-get update -qq && {root}apt-get install -y -qq chromium"
    debian = [apt] if shutil.which("apt-get") and (not root or shutil.which("sudo")) else []
    return [*debian, f"{sys.executable} -m playwright install chromium"]


def _playwrights() -> str | None:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        path = playwright.chromium.executable_path
    return path if Path(path).exists() else None


def run_node(program: str, *arguments: str, given: object = None) -> Any:
    """Run JavaScript with the Node of Playwright's Python package; return the JSON it writes.

    What is `given` is on its standard input, as JSON. Node itself has died of a segmentation
    fault once in thousands of starts: a death by a signal is tried again, nothing else is.
    """
    for _ in range(3):
        done = subprocess.run(
            [_node(), "-e", program, *arguments],
            input=json.dumps(given),
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        if done.returncode >= 0:
            break
    assert done.returncode == 0, f"Node ended with {done.returncode}: {done.stderr[-2000:]}"
    return json.loads(done.stdout)


@cache
def _node() -> str:
    from playwright._impl._driver import compute_driver_executable

    return str(compute_driver_executable()[0])
