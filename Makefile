# Every target sets up what it needs. Python 3.11 or newer.
PYTHON ?= python3
VENV   ?= .venv
BIN     = $(VENV)/bin
READY   = $(VENV)/.ready
SITE    = $(VENV)/.site-ready
SCALE   = $(VENV)/.scale-ready

.PHONY: setup demo test test-distributed check readers fuzz kills bench docs clean

setup: $(READY)

# torch first: it decides which build everything after it has to fit
$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt torch
	$(BIN)/pip install --quiet --constraint constraints.txt --editable ".[dev]"
	touch $@

demo: $(READY)
	$(BIN)/ssrseg demo

test: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist loadfile --ignore tests/scale

# several processes, shards, Ray, stores, a server; 0.7 GB of packages more
test-distributed: $(SCALE)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q tests/scale

$(SCALE): $(READY)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable ".[distributed]"
	touch $@

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# exports read back by the programs that they are for; 0.6 GB of packages beside .venv
READERS = .venv-readers
readers: $(READY) $(READERS)/.ready
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q tests/readers

$(READERS)/.ready: tests/readers/requirements.txt
	$(PYTHON) -m venv $(READERS)
	$(READERS)/bin/pip install --quiet --no-deps --requirement $<
	touch $@

# hostile inputs for every reader; hours. `make fuzz CASES=1000` takes minutes
CASES ?= 100000
fuzz: $(READY)
	$(BIN)/python tests/fuzz/run.py --cases $(CASES)

# runs killed at 120 moments and started again, compared to the byte
kills: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python tests/kills.py --kills 120

bench: $(READY)
	$(BIN)/python benchmarks/run_all.py

# the site in site/index.html; runs the notebooks
docs: $(SITE)
	OMP_NUM_THREADS=1 PYTHONWARNINGS="ignore:IProgress not found" $(BIN)/mkdocs build

$(SITE): $(READY)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable ".[docs]"
	touch $@

clean:
	rm -rf $(VENV) $(READERS) demo-run site build dist src/*.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis fuzz-failures
