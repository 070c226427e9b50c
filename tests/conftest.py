"""What all tests share: a store of their own, and one smoke run for the whole session."""

import signal
import sys

import pytest
import tools

from lotperm import Experiment, Pipeline, Store
from lotperm.cli import app

# What a shell starts in the background ignores Ctrl-C, and so would all that the tests start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def home(tmp_path_factory):
    """A store for the whole session, so that what one test computed the next one loads."""
    return tmp_path_factory.mktemp("home")


@pytest.fixture(autouse=True)
def _own_home(home, monkeypatch):
    monkeypatch.setenv("LOTPERM_HOME", str(home))
    monkeypatch.delenv("LOTPERM_DATA", raising=False)
    monkeypatch.delenv("LOTPERM_IMAGEFOLDER", raising=False)


@pytest.fixture(scope="session")
def smoke(home):
    """The smoke experiment, run once: (pipeline, results)."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LOTPERM_HOME", str(home))
        patch.delenv("LOTPERM_DATA", raising=False)
        pipeline = Pipeline(Experiment.from_parameters(profile="smoke"), Store.default())
        yield pipeline, pipeline.run()


@pytest.fixture
def command(monkeypatch, capsys):
    """Runs the command line in this process: (exit code, stdout, stderr)."""

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
def node():
    """Node's executable."""
    return tools.node()


@pytest.fixture(scope="session")
def browser():
    """A headless Chromium, driven by Playwright."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        # Without the sandbox it also runs as root, in a container.
        browser = playwright.chromium.launch(
            executable_path=tools.chromium(), args=["--no-sandbox"]
        )
        yield browser
        browser.close()
