# The only door. Needs git, make and Python 3.11 or newer with venv; makes .venv itself.
# `make` alone lists the targets.

# The first that is there and new enough; override with PYTHON=...
PYTHON ?= $(shell for p in python3.11 python3 python3.12 python3.13; do \
	$$p -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 && echo $$p && break; done)
VENV := .venv
BIN := $(VENV)/bin
ARGS ?=
NODES ?= 1
IMAGES ?= 50000
SEED ?=
SEEDS ?=

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

# pip hands this to its isolated build environments too, so that the build backend is pinned as well. Relative, since pip
# splits it at spaces: every pip here runs in this directory.
export PIP_CONSTRAINT := constraints.txt
export PIP_DISABLE_PIP_VERSION_CHECK := 1

# Three stages in one environment: each stamp is newer than what it was made from.
RUN := $(VENV)/.stamp
DEV := $(VENV)/.stamp-dev
BENCH := $(VENV)/.stamp-bench
INSTALL = $(BIN)/python -m pip install --quiet --editable

##@ Use

.PHONY: run
run: $(RUN)  ## Start a board, or a cluster of NODES=3, and an agent that appends this machine's readings. ARGS goes to `shoal up`.
	@exec $(BIN)/shoal up --from-make --agent --nodes $(NODES) --data-dir ./shoal-data$(patsubst %,-%,$(filter-out 1,$(NODES))) $(ARGS)

.PHONY: bench
bench: $(BENCH)  ## Measure, and compare with fdatasync, raw SQLite and others. ARGS=--json for JSON.
	@exec $(BIN)/shoal bench $(ARGS)

##@ Check

.PHONY: test
test: $(DEV)  ## Every test. ARGS goes to pytest.
	$(BIN)/pytest tests $(ARGS)

.PHONY: unit property contract integration e2e fuzz evidence
unit property contract integration e2e fuzz evidence: $(DEV)  ## The tests of one folder.
	$(BIN)/pytest tests/$@ $(ARGS)

.PHONY: sim
sim: $(DEV)  ## Simulated nodes and subscriptions. SEEDS=1000 runs that many of nodes, SEED=7 shows one.
	$(if $(SEED),SHOAL_SIM_SEED=$(SEED)) $(if $(SEEDS),SHOAL_SIM_SEEDS=$(SEEDS)) $(BIN)/pytest \
		$(if $(SEED)$(SEEDS),-s tests/sim/test_nodes.py -k 'one_seed or stays_true',tests/sim) $(ARGS)

.PHONY: power-cut
power-cut: $(DEV)  ## The power-cut suite over IMAGES=50000 disk images.
	SHOAL_POWER_CUT_IMAGES=$(IMAGES) $(BIN)/pytest --timeout=0 tests/integration/test_power_cut.py $(ARGS)

.PHONY: mutants
mutants: $(DEV)  ## Break every rule of consensus on purpose: its test must fail. ARGS chooses by words.
	$(BIN)/python tests/raft_mutants.py $(ARGS)

.PHONY: cover
cover: $(DEV)  ## Every test under branch coverage, processes they start included.
	$(BIN)/coverage erase
	$(BIN)/coverage run $(BIN)/pytest tests $(ARGS)
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report

.PHONY: lint
lint: $(DEV)  ## Ruff's rules, its formatting, who may import whom, and what is deployed.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/hadolint host_tools/deploy/Containerfile
	$(BIN)/yamllint --strict --config-data '{extends: default, rules: {line-length: {max: 120}}}' host_tools/deploy
	$(BIN)/kubernetes-validate --strict --quiet host_tools/deploy/kubernetes.yaml

.PHONY: types
types: $(DEV)  ## mypy, strict.
	$(BIN)/mypy

.PHONY: format
format: $(DEV)  ## Mend what Ruff can mend by itself.
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .

##@ Make

.PHONY: venv
venv: $(DEV)  ## The environment with all that `make test lint types` need.

.PHONY: wheel
wheel: $(DEV)  ## Build the wheel, and import it from an environment of its own.
	rm -rf dist build/wheel-check
	$(BIN)/python -m build --wheel --outdir dist .
	$(BIN)/python -m venv build/wheel-check
	build/wheel-check/bin/python -m pip install --quiet dist/*.whl
	cd build && wheel-check/bin/python -I -c \
		'import shoal, shoal_device, shoal_host; print("imports from the wheel: shoal", shoal.__version__)'
	build/wheel-check/bin/shoald --help >/dev/null

.PHONY: pins
pins: check-python  ## Renew constraints.txt: the newest of everything, tried nowhere but in the tests after it.
	rm -rf build/pins && $(PYTHON) -m venv build/pins
	PIP_CONSTRAINT= build/pins/bin/python -m pip install --quiet --editable '.[host,otel,speed,bench,dev]'
	{ sed '/^[^#]/,$$d' constraints.txt; build/pins/bin/python -m pip freeze --exclude-editable | grep '=='; } > build/constraints.txt
	mv build/constraints.txt constraints.txt

.PHONY: clean
clean:  ## Remove all that was made here, but no data directory.
	rm -rf $(VENV) build dist .coverage .coverage.* .hypothesis .mypy_cache .pytest_cache .ruff_cache .import_linter_cache
	find core device host_tools tests -name __pycache__ -type d -prune -exec rm -rf {} +

.PHONY: help
help:  ## This list.
	@awk 'BEGIN { FS = ":.*## " } /^##@/ { printf "\n%s\n", substr($$0, 5) } \
		/^[a-z][a-z0-9 -]*:.*## / { n = split($$1, names, " "); for (i = 1; i <= n; i++) printf "  make %-12s %s\n", names[i], $$2 }' $(MAKEFILE_LIST)

.PHONY: check-python
check-python:
	@[ -n "$(PYTHON)" ] || { \
		echo "shoal needs Python 3.11 or newer with venv (Debian: apt install python3-venv); name one with PYTHON=..." >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "shoal needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) --version 2>&1)" >&2; exit 1; }

$(BIN)/python:
	@$(MAKE) --no-print-directory check-python
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); exit 1; }

$(RUN): pyproject.toml constraints.txt | $(BIN)/python
	@echo "installing what a board needs into $(VENV) ..."
	$(INSTALL) '.[host]'
	@touch $@

$(DEV): $(RUN)
	@echo "installing what the tests need into $(VENV) ..."
	$(INSTALL) '.[host,otel,speed,dev]'
	@touch $@

$(BENCH): $(RUN)
	@echo "installing what the benchmark compares with into $(VENV) ..."
	$(INSTALL) '.[host,bench]'
	@touch $@
