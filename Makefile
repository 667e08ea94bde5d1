# Two commands on a fresh machine: `make demo` and `make test`. Everything else is for people who change the code.
# PYTHON picks the interpreter that makes the environment: make demo PYTHON=python3.12
# EXTRAS picks the optional dependencies of pyproject.toml; cluster.yaml installs with EXTRAS=aws.

PYTHON ?= python3
EXTRAS ?= dev
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help demo test chaos lint types install

help:
	@echo 'make demo    install, then label and evaluate eight photographs with the shipped model'
	@echo 'make test    install, then run the whole test suite'
	@echo 'make chaos   install, then ten rounds of labelling while things are killed; not part of the tests'
	@echo 'make lint    ruff: style and format'
	@echo 'make types   mypy'

# `make demo ARGS="--out elsewhere"` hands arguments on.
demo: install
	$(BIN)/zs3 demo $(ARGS)

test: install
	$(BIN)/python -m pytest $(ARGS)

# `make chaos ARGS="--seed 7 --rounds 1"` plays the round of seed 7 again.
chaos: install
	$(BIN)/python tests/chaos/chaos.py $(ARGS)

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: install
	$(BIN)/mypy

install: $(STAMP)

# Once per change of either file: the stamp is touched only when everything before it worked.
$(STAMP): pyproject.toml constraints.txt
	@command -v $(PYTHON) >/dev/null || \
	  { echo 'zs3: no interpreter named "$(PYTHON)"; install Python 3.11 or newer, or say make PYTHON=/path/to/python' >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "zs3: $(PYTHON) is $$($(PYTHON) --version 2>&1), and zs3 needs 3.11 or newer; say make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || \
	  { rm -rf $(VENV); echo 'zs3: $(PYTHON) -m venv failed; on Debian and Ubuntu, install the package python3-venv' >&2; exit 1; }
	$(BIN)/python -m pip install --disable-pip-version-check --quiet -c constraints.txt -e '.[$(EXTRAS)]'
	@touch $@
