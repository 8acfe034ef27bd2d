# make train      set up .venv if it is missing, then run the main job
# make test       set up .venv if it is missing, then run all tests, a process a core
# make lint       formatting, lint and types, with the dev extra
# make docs       the site, strictly, into site/, with the docs extra
# make coverage   all tests under coverage: which lines of src no test runs
# make mutants    change the formulas of src/cnnexp/ops one by one: do the tests notice?
# make peers      TensorFlow and JAX into .venv-peers, for benchmarks/peers.py
# make test-lowest, test-newest    the tests with the lowest and the newest dependencies that are
#                 allowed, each in an environment of its own; ARGS="tests/ops tests/nn" for some
# Needs python3 (>= 3.10) with venv, and make; nothing else.

PYTHON ?= python3
VENV ?= .venv
ARGS ?=
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check

# Which versions of the dependencies: the exact ones, or the ends of the ranges in pyproject.toml.
RESOLVED ?= exact
INSTALL_exact = $(PIP) -c constraints.txt
INSTALL_newest = $(PIP) --upgrade --upgrade-strategy eager
INSTALL_lowest = $(PIP) -c constraints.txt uv && $(BIN)/python -m uv pip install --quiet --python $(BIN)/python --resolution lowest-direct
INSTALL = $(INSTALL_$(RESOLVED))

.PHONY: train test lint docs coverage mutants peers test-lowest test-newest clean
.DELETE_ON_ERROR:

train: $(VENV)/.installed
	$(BIN)/python -m cnnexp.train $(ARGS)

test: $(VENV)/.installed
	$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist worksteal $(ARGS)

lint: $(VENV)/.installed-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright --pythonpath $(BIN)/python

docs: $(VENV)/.installed-docs
	$(BIN)/python docs/build.py

# Slower than the tests alone, by the Python versions before 3.12 much; so CI has a job for it.
coverage: $(VENV)/.installed-dev
	$(BIN)/python -m coverage erase
	COVERAGE_CORE=$$($(BIN)/python -c 'import sys; print("sysmon" if sys.version_info >= (3, 12) else "ctrace")') \
	  $(BIN)/python -m coverage run -m pytest -n auto --maxprocesses 4 --dist worksteal $(ARGS)
	$(BIN)/python -m coverage combine --quiet
	$(BIN)/python -m coverage report

mutants: $(VENV)/.installed
	OMP_NUM_THREADS=1 NUMBA_NUM_THREADS=1 $(BIN)/python -m tests.mutation $(ARGS)

peers: .venv-peers/.installed

# Exact, so that what they are compared by stays the same; newer ones are tried by hand.
.venv-peers/.installed: Makefile
	$(PYTHON) -m venv --clear .venv-peers
	.venv-peers/bin/python -m pip install --quiet --disable-pip-version-check \
	  tensorflow-cpu==2.21.0 keras==3.15.1 jax==0.10.2 flax==0.12.8 optax==0.2.8
	touch $@

# Kernels of their own: those of another numba beside the sources would be compiled anew at each change.
test-lowest:
	NUMBA_CACHE_DIR=$(CURDIR)/.venv-lowest/kernels $(MAKE) test VENV=.venv-lowest RESOLVED=lowest

test-newest:
	NUMBA_CACHE_DIR=$(CURDIR)/.venv-newest/kernels $(MAKE) test VENV=.venv-newest RESOLVED=newest

# The stamps are older than pyproject.toml or constraints.txt when those have changed since.
$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "cnnexp needs Python >= 3.10, but $(PYTHON) is " + sys.version.split()[0])'
	$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV)
	$(INSTALL) -e ".[test]"
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(INSTALL) -e ".[dev]"
	touch $@

$(VENV)/.installed-docs: $(VENV)/.installed
	$(INSTALL) -e ".[docs]"
	touch $@

clean:
	rm -rf $(VENV) .venv-lowest .venv-newest .venv-peers build dist site .pytest_cache .ruff_cache
