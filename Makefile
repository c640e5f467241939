# The two commands of a newcomer: `make demo` and `make test`. Both set up .venv first.
# EXTRAS chooses what is installed: `make setup EXTRAS=gpu,dev` takes the GPU build of faiss.

EXTRAS ?= cpu,dev
VENV   := .venv
BIN    := $(VENV)/bin
comma  := ,
STAMP  := $(VENV)/.evenset-$(subst $(comma),-,$(EXTRAS))

# The first interpreter that really starts (a version manager's shim may not), has venv, and is 3.11 or 3.12.
FIT    := import sys, venv, ensurepip; sys.exit(sys.version_info[:2] not in ((3, 11), (3, 12)))
PYTHON ?= $(shell for p in python3.12 python3.11 python3 python; do \
            if "$$p" -c '$(FIT)' >/dev/null 2>&1; then echo "$$p"; break; fi; done)

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-slow test-cluster test-soak lint format bench clean

help:  ## show this list
	@sed -n 's/^\([a-z-]*\):.*## /\1|/p' Makefile | while IFS='|' read -r target text; do printf '  make %-12s %s\n' "$$target" "$$text"; done

setup: $(STAMP)  ## make .venv; nothing to do while it is newer than pyproject.toml and constraints.txt

# Bytecode is compiled here: Ray starts many processes, and importing the packages takes half the time with it.
# The stamp is written last, so that an interrupted set-up is taken up again.
$(STAMP): pyproject.toml constraints.txt
	@if ! $(BIN)/python -c '$(FIT)' >/dev/null 2>&1; then \
	    if [ -z "$(PYTHON)" ]; then \
	        echo "evenset needs Python 3.11 or 3.12 with its venv module, and none is on the PATH: install one (Debian, Ubuntu: python3-venv) or name it, as in make PYTHON=/path/to/python3.12." >&2; exit 1; \
	    fi; \
	    "$(PYTHON)" -m venv --clear $(VENV); \
	fi
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt uv
	VIRTUAL_ENV="$(CURDIR)/$(VENV)" $(BIN)/uv pip install --compile-bytecode -c constraints.txt -e ".[$(EXTRAS)]"
	@touch $@

demo: setup  ## curate real data that the packages carry (images and text), and name the reports to open
	$(BIN)/evenset demo

# OMP_NUM_THREADS=1: several OpenMP threads on contended cores are many times slower than one. Two processes
# share the tests, a file each, so that waiting for Ray in one costs nothing.
test: export OMP_NUM_THREADS := 1
test: setup  ## run the tests; `make test ARGS="tests/curation -x"` passes arguments on to pytest
	$(BIN)/python -m pytest -n 2 --dist loadfile $(ARGS)

test-slow: export OMP_NUM_THREADS := 1
test-slow: setup  ## run the tests that take long
	$(BIN)/python -m pytest -m slow -n 2 --dist loadfile $(ARGS)

test-cluster: export OMP_NUM_THREADS := 1
test-cluster: setup  ## run the tests that submit jobs to a cluster of their own (40 minutes)
	$(BIN)/python -m pytest -m cluster -n 2 --dist loadfile $(ARGS)

test-soak: export OMP_NUM_THREADS := 1
test-soak: setup  ## run a long curation under faults, and more seeds of every fault (an hour)
	$(BIN)/python -m pytest -m soak -n 2 $(ARGS)

lint: setup  ## check style (ruff), formatting (ruff) and types (mypy)
	@failed=0; for check in "ruff check ." "ruff format --check ." "mypy"; do \
	    echo "$$check"; $(BIN)/$$check || failed=1; done; exit $$failed

format: setup  ## let ruff repair what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Of the method, and of the engine; the latter need the rivals: `make bench EXTRAS=cpu,dev,bench`.
BENCHMARKS := toy2d zador1d long_tail real_pools encoders embed assignment hierarchical kmeans estimate scaling shards out_of_core
bench: setup  ## run every benchmark but gpu (hours) and print its table; fails in the end where one has failed
	@failed=0; for name in $(BENCHMARKS); do echo "== $$name"; $(BIN)/python -m benchmarks.$$name || failed=1; done; exit $$failed

clean:  ## remove .venv and what the tools leave behind; runs/ stays
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis build dist *.egg-info
