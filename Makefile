# Every target makes .venv by itself, from the pins in requirements.txt. Bare `make` lists the targets.

VENV    ?= .venv
PROFILE ?= laptop
UV       = uv==0.9.30
# As many tests at once as there are cores, each in a process with one thread: more threads would wait for each other.
PYTEST   = OMP_NUM_THREADS=1 $(BIN)/pytest -n logical --maxprocesses 8
BIN      = $(VENV)/bin
READY    = $(VENV)/.ready

# Containers often forbid to keep bytecode; each of the many processes would compile the package again.
export PYTHONDONTWRITEBYTECODE =

# PYTHON=... chooses the Python that makes .venv; else the first of these that is new enough.
PYTHON  ?= $(shell for python in python3 python3.13 python3.12 python3.11; do \
             $$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$python && break; done)

.PHONY: help setup book pdf test pytest coverage faults evidence architectures lint nbval slurm bench notebooks clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' Makefile

setup: $(READY)  ## make .venv with everything that is needed (the other targets do it by themselves)

$(READY): requirements.txt pyproject.toml
	@$(if $(PYTHON),$(PYTHON),false) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
	  || { echo "lotperm needs Python 3.11 or newer: $(or $(PYTHON),python3) isn't. Install one, or name it: make PYTHON=/path/to/python3.11"; exit 1; }
	$(PYTHON) -m venv $(VENV) \
	  || { echo "$(PYTHON) can't make a virtual environment. On Debian and Ubuntu, install the package python3-venv."; exit 1; }
	$(BIN)/python -m pip install --quiet --disable-pip-version-check '$(UV)'
	VIRTUAL_ENV='$(abspath $(VENV))' $(BIN)/uv pip install --compile-bytecode -r requirements.txt
	VIRTUAL_ENV='$(abspath $(VENV))' $(BIN)/uv pip install --quiet --no-deps -e .
	@touch $@

book: $(READY)  ## run the notebooks (PROFILE=smoke|laptop|desktop|paper, default laptop) and build the site
	$(BIN)/lotperm book --profile $(PROFILE)
	@echo "The book: file://$(CURDIR)/_build/html/index.html"

pdf: $(READY)  ## the same, and the whole book as one PDF; Chromium or Chrome prints it
	$(BIN)/lotperm book --profile $(PROFILE) --pdf
	@echo "The book: file://$(CURDIR)/_build/book.pdf"

test: $(READY)  ## lint, run all tests
	$(MAKE) --no-print-directory -j2 lint pytest

# Beside mypy, which has one process: else it would keep the other cores waiting for a minute.
pytest: $(READY)
	$(PYTEST) --dist worksteal

coverage: $(READY)  ## the tests again, and which lines of the package they don't reach; fails below 95 %
	$(PYTEST) --dist worksteal --cov --cov-report=term-missing --cov-fail-under=95

faults: $(READY)  ## try every fault often (kill -9 500 times): about a quarter of an hour, goes on where it was stopped
	$(BIN)/python tests/faults/record.py

evidence: $(READY)  ## what the live pages show, with their tests: minutes from an empty store; weekly and at release
	$(BIN)/pytest -m evidence tests/evidence

# These are no dependencies of the package, and their rows must not be left out: so they are installed here.
architectures: $(READY)  ## 85 networks of other libraries, traced and matched, for the table in the book; weekly
	VIRTUAL_ENV='$(abspath $(VENV))' $(BIN)/uv pip install --quiet timm==1.0.31 transformers==5.24.0
	OMP_NUM_THREADS=1 $(BIN)/pytest -m architectures tests/architectures
	$(BIN)/python tests/architectures/record.py

lint: $(READY)  ## ruff, mypy, and the order of imports
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

# What `make test` checks too, on the notebooks that it executes for the site: copies at the profile of tests. An empty store, so that the numbers are
# computed, not remembered. The cells of a notebook stay together.
nbval: $(READY)  ## compare the notebooks, executed again, with the outputs that they keep
	rm -rf _build/nbval
	$(BIN)/python -c 'import nbformat; from pathlib import Path; from lotperm.site.notebooks import at_smoke; out = Path("_build/nbval/notebooks"); out.mkdir(parents=True); [nbformat.write(at_smoke(p), out / p.name) for p in Path("notebooks").glob("*.ipynb")]'
	LOTPERM_HOME='$(CURDIR)/_build/nbval' $(PYTEST) --dist loadfile -q --nbval-lax --nbval-current-env --nbval-sanitize-with tests/nbval.cfg _build/nbval/notebooks

slurm: $(READY)  ## try sweeps with a real Slurm on this host, installed where it isn't (Debian, Ubuntu)
	LOTPERM_PYTHON=$(BIN)/python OMP_NUM_THREADS=1 tests/slurm/run.sh

bench: $(READY)  ## measure the fast paths against plain ones, side by side
	for name in training accuracy programs step low_precision matching resnet50_matching barrier costs; do $(BIN)/python benchmarks/$$name.py || exit 1; done
	$(BIN)/python benchmarks/engine.py --networks mlp resnet8x0.5
	$(BIN)/python benchmarks/engine.py --networks resnet20x1 --out book/results/resnet20
	$(BIN)/python benchmarks/engine.py --networks resnet20x4 vgg11 --members 1 2 4 --rounds 2 --out book/results/wide

notebooks: $(READY)  ## run the notebooks at smoke and keep their outputs in notebooks/
	$(BIN)/python -c 'from pathlib import Path; from lotperm.site.notebooks import renew; [renew(p) for p in sorted(Path("notebooks").glob("*.ipynb"))]'

clean:  ## remove what was built; .venv and the results in the store stay
	rm -rf _build .pytest_cache .hypothesis .mypy_cache .ruff_cache .import_linter_cache *.egg-info
