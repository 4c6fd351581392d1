# The thin front door for trying sdistrib and for working on it: it makes .venv, then calls the real
# tools. Stamps in .venv remember what is installed, so a second run installs nothing.
#
#   make PYTHON=python3.12      another interpreter (3.11 or newer)
#   CMAKE_ARGS=-DSD_CUDA=ON make demo      another engine; each one is compiled once and kept

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet --no-input
# Two at a time: most tests wait for processes.
PYTEST_ARGS ?= -n 2 --dist worksteal
SOAK_ARGS ?=
SOAK_SEEDS ?= 100000

# Coverage floors: everything, and the parts whose every branch must be tested.
FLOOR := 90
FULL := */sdistrib/protocol/*,*/sdistrib/petitions.py,*/sdistrib_*/machine.py,*/sdistrib_worker/fetching.py,*/sdistrib_manager/scheduler*

.DEFAULT_GOAL := help
.NOTPARALLEL:
.DELETE_ON_ERROR:
.PHONY: help demo test test-fast test-slow soak lint types imports docs bench format clean setup engine models

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s  %s\n", $$1, $$2}' Makefile

demo: setup models ## Draw output.png here through a manager and two workers
	@$(BIN)/python -m tools.demo

test: lint types imports setup models ## All that must pass before a change lands
	@$(BIN)/python -m tools.tiny_models models --bad >/dev/null
	@$(BIN)/coverage erase
	$(BIN)/coverage run -m pytest -m "not slow" $(PYTEST_ARGS)
	@$(BIN)/coverage combine --quiet
	$(BIN)/coverage report --fail-under=$(FLOOR)
	@$(BIN)/coverage report --include='$(FULL)' --fail-under=100

test-fast: $(VENV)/.project ## The tests without engine or processes, under a minute
	$(BIN)/pytest -m "not process and not engine and not slow" $(PYTEST_ARGS)

test-slow: setup models ## The tests that take minutes each
	@$(BIN)/python -m tools.tiny_models models --bad --sd15 >/dev/null
	$(BIN)/pytest -m slow $(PYTEST_ARGS)

soak: $(VENV)/.project ## Kill a thousand workers and a hundred managers under load, then play 100,000 simulated farms
	PYTHONPATH=. $(BIN)/python -m tests.soak $(SOAK_ARGS)
	PYTHONPATH=. $(BIN)/python -m tests.simulation --seeds $(SOAK_SEEDS) --coverage

lint: $(VENV)/.project ## Style, format and spelling
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/codespell

types: $(VENV)/.project ## mypy --strict
	$(BIN)/mypy

imports: $(VENV)/.project ## Who may import whom
	$(BIN)/lint-imports

docs: $(VENV)/.project ## Check that the generated pages are up to date
	$(BIN)/python -m tools.docs

bench: setup models ## The figures of the README
	$(BIN)/python -m bench

format: $(VENV)/.project ## Let ruff rewrite what it can
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

clean: ## Remove what make made here; models/ and the compiled engines in ~/.cache/sdistrib stay
	rm -rf $(VENV) build dist demo .coverage .coverage.* .hypothesis .*_cache

setup: engine $(VENV)/.project

# The environment --------------------------------------------------------------------------------

$(BIN)/python:
	@command -v $(PYTHON) >/dev/null || \
	  { echo "sdistrib: no $(PYTHON) found: apt install python3 python3-venv" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "sdistrib: $$($(PYTHON) -V) is too old, 3.11 or newer is needed: make PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
	  { echo "sdistrib: $(PYTHON) cannot make environments: apt install python3-venv" >&2; exit 1; }
	@echo "sdistrib: making $(VENV)"
	@$(PYTHON) -m venv $(VENV)

# The pip of a fresh Python 3.11 does not know dependency groups yet.
$(VENV)/.dev: pyproject.toml constraints.txt | $(BIN)/python
	@echo "sdistrib: installing the developers' tools"
	@$(BIN)/python -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["dependency-groups"]["dev"], sep="\n")' > $(VENV)/dev.txt
	@$(PIP) install -c constraints.txt -r $(VENV)/dev.txt
	@touch $@

# Without the worker's extra, so that lint and test-fast need no engine.
$(VENV)/.project: pyproject.toml constraints.txt $(VENV)/.dev
	@echo "sdistrib: installing sdistrib"
	@$(PIP) install -c constraints.txt -e '.[manager,client]'
	@touch $@

# A stamp per engine: other options, another compiler or another CPU is another key, and a build.
engine: $(VENV)/.dev
	@key=$$($(BIN)/python tools/engine_wheel.py --print-key) || exit 1; \
	test -e $(VENV)/.engine-$$key || { \
	  $(BIN)/python tools/engine_wheel.py --check && \
	  $(BIN)/python tools/engine_install.py --models models && \
	  rm -f $(VENV)/.engine-* && touch $(VENV)/.engine-$$key; }

models: $(VENV)/.dev
	@$(BIN)/python -m tools.tiny_models models >/dev/null
