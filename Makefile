# `make` alone lists the targets. PYTHON picks the interpreter of a new environment, ARGS goes to
# pytest, JOBS is its number of processes: make test JOBS=4 ARGS="-k canonical".

PYTHON ?= python3
JOBS ?= 2
ARGS ?=

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
TORCH := $(shell sed -n 's/^\(torch==[^ ]*\).*/\1/p' constraints.txt)

# The root is the package: without this, `python -m` would put it on sys.path and `import passes`
# would make a second copy of every class.
export PYTHONSAFEPATH := 1
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.DEFAULT_GOAL := help
.PHONY: help .venv venv demo test test-all bench lint ruff ruff-format mypy size wheel clean

help:
	@echo "make venv      create $(VENV) and install passel in it, with its development tools"
	@echo "make demo      run the demonstration"
	@echo "make test      run the tests, without the slow ones"
	@echo "make test-all  run all tests, one at a time"
	@echo "make bench     run the benchmarks"
	@echo "make lint      ruff, mypy and the size limits"
	@echo "make wheel     build the wheel into dist/"
	@echo "make clean     remove builds and caches, keep $(VENV)"

.venv venv: $(STAMP)

# torch goes first and alone, so that whatever build of it the environment offers is settled before
# anything that depends on it is resolved.
$(STAMP): pyproject.toml constraints.txt
	@command -v $(PYTHON) >/dev/null || { \
	  echo "passel needs Python 3.11 or newer, and there is no $(PYTHON);" \
	    "name one: make PYTHON=/path/to/python3 $(MAKECMDGOALS)" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "passel needs Python 3.11 or newer, and $(PYTHON) is" \
	    "$$($(PYTHON) -V 2>&1);" \
	    "name another: make PYTHON=/path/to/python3 $(MAKECMDGOALS)" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	  echo "$(PYTHON) has no working venv module; install it (on Debian and Ubuntu the package" \
	    "is python3-venv) or name another: make PYTHON=/path/to/python3 $(MAKECMDGOALS)" >&2; \
	  exit 1; }
	@if [ -e $(BIN)/python ] && \
	  ! $(BIN)/python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
	  echo "$(VENV) is broken or its Python is older than 3.11; remove it and try again" >&2; \
	  exit 1; fi
	test -x $(BIN)/pip || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -c constraints.txt "$(TORCH)"
	$(BIN)/python -m pip install -c constraints.txt -e ".[dev]"
	@touch $@

demo: $(STAMP)
	$(BIN)/python -m passel.tools.demo

# One thread of torch a process, or the processes fight for the cores.
test: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/pytest -m "not slow" -n $(JOBS) --dist worksteal $(ARGS)

# Slow tests may measure time, so nothing runs beside them.
test-all: $(STAMP)
	$(BIN)/pytest $(ARGS)

bench: $(STAMP)
	$(BIN)/passel bench

lint: ruff ruff-format mypy size

ruff: $(STAMP)
	$(BIN)/ruff check

ruff-format: $(STAMP)
	$(BIN)/ruff format --check

mypy: $(STAMP)
	bash tools/lint_mypy.sh

size: $(STAMP)
	$(BIN)/python -P tools/size.py

# build/ is removed first: setuptools would pack the modules deleted since it was last filled.
wheel: $(STAMP)
	rm -rf build
	$(BIN)/python -m build --wheel --outdir dist

clean:
	rm -rf build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -path ./$(VENV) -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +
