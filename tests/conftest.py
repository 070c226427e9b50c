"""What all tests share: a store of their own, and one smoke run for the whole session."""

import functools
import os
import signal
import sys
from pathlib import Path

import pytest
import tools
import typer
from filelock import FileLock
from hypothesis import settings

from lotperm import Experiment, Pipeline, Store
from lotperm.cli import app

# What a shell starts in the background ignores Ctrl-C, and so would all that the tests start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


# How long an example takes says more about what else runs than about the code.
settings.register_profile("any machine", parent=settings(), deadline=None)
settings.load_profile("any machine")


@pytest.fixture(scope="session")
def shared(tmp_path_factory) -> Path:
    """Return a folder that all processes of this session share."""
    folder = tmp_path_factory.getbasetemp()
    return folder.parent if os.environ.get("PYTEST_XDIST_WORKER") else folder


@pytest.fixture(scope="session")
def home(tmp_path_factory):
    """Return a store's folder for the whole session: what one test computed the next one loads."""
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="session", autouse=True)
def _data(shared):
    """Let all tests and their child processes share the data sets that are made on first use.

    Making MNIST-1D again for each store would take longer than most tests.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LOTPERM_DATA", str(shared / "data"))
        patch.delenv("LOTPERM_IMAGEFOLDER", raising=False)
        yield


@pytest.fixture(scope="session", autouse=True)
def _commands_once():
    """Build the command line once: a process that runs many lines would build it for each."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("typer.main.get_command", functools.cache(typer.main.get_command))
        yield


@pytest.fixture(autouse=True)
def _own_home(home, monkeypatch):
    monkeypatch.setenv("LOTPERM_HOME", str(home))


@pytest.fixture(scope="session")
def smoke(home):
    """Run the smoke experiment once; return its pipeline and results."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LOTPERM_HOME", str(home))
        pipeline = Pipeline(Experiment.from_parameters(profile="smoke"), Store.default())
        yield pipeline, pipeline.run()


@pytest.fixture(scope="session")
def two_ranks(shared) -> Path:
    """Run a small experiment on two ranks, by torchrun; return its folder.

    It holds ``home``, ``out`` and ``stdout``. Run once, also when several processes share the
    tests.
    """
    import sweeps
    from ranks import torchrun

    folder = shared / "two-ranks"
    with FileLock(shared / "two-ranks.lock"):
        if not folder.exists():
            given = {**sweeps.TINY, "sparsity": 0.5}
            done = torchrun(
                *("-m", "lotperm", "experiment", "--profile", given.pop("profile")),
                *(f"-p{name}={value}" for name, value in given.items()),
                *("--device", "cpu", "--out", folder / "out"),
                LOTPERM_HOME=str(folder / "home"),
            )
            assert done.returncode == 0, done.stderr[-3000:]
            (folder / "stdout").write_text(done.stdout)
    return folder


@pytest.fixture
def patient(monkeypatch):
    """Let the jobs of sweeps wait in the middle of a training until they are interrupted."""
    import sweeps

    monkeypatch.setattr("lotperm.cluster.sweep.Worker", sweeps.PatientWorker)
    folders = Path(__file__).parent, Path(__file__).parents[1], os.environ.get("PYTHONPATH", "")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(map(str, folders)))


@pytest.fixture
def command(monkeypatch, capsys):
    """Run the command line in this process; return exit code, stdout and stderr."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["lotperm", *map(str, arguments)])
        code = 0
        try:
            app.main()
        except SystemExit as stop:
            code = stop.code or 0
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


@pytest.fixture(scope="session")
def browser():
    """Start a headless Chromium, driven by Playwright."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        # Without the sandbox it also runs as root, in a container.
        browser = playwright.chromium.launch(
            executable_path=tools.chromium(), args=["--no-sandbox"]
        )
        yield browser
        browser.close()
