# Two commands on a fresh machine: `make demo` and `make test`. Everything else is for people who change the code.
# PYTHON picks the interpreter that makes the environment: make demo PYTHON=python3.12
# `make install` installs what running needs; EXTRAS adds optional dependencies of pyproject.toml: make install EXTRAS=aws

PYTHON ?= python3
EXTRAS ?= runtime
VENV := .venv
BIN := $(VENV)/bin
RUNTIME := $(VENV)/.installed-runtime
DEV := $(VENV)/.installed-dev

.DEFAULT_GOAL := help
.PHONY: help demo test chaos lint types install
.NOTPARALLEL:

help:
	@echo 'make demo    install, then label and evaluate eight photographs with the shipped model'
	@echo 'make test    install with development tools, then run the whole test suite'
	@echo 'make chaos   ten rounds of labelling while processes and machines are killed; not part of the tests'
	@echo 'make lint    ruff: style and format'
	@echo 'make types   mypy'

# `make demo ARGS="--out elsewhere"` hands arguments on.
demo: $(RUNTIME)
	$(BIN)/zs3 demo $(ARGS)

# Two processes: one has the tests that share a Ray, which often wait for it, the other works meanwhile.
test: $(DEV)
	$(BIN)/python -m pytest -n 2 --dist loadgroup $(ARGS)

# `make chaos ARGS="--seed 7 --rounds 1"` plays the round of seed 7 again.
chaos: $(DEV)
	$(BIN)/python tests/chaos/chaos.py $(ARGS)

lint: $(DEV)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(DEV)
	$(BIN)/mypy

install: $(VENV)/.installed-$(EXTRAS)

# One stamp for each set of optional dependencies, each made again when either file changes. Every set includes what
# running needs, so `make demo` after `make test` installs nothing. A stamp is touched only when everything worked.
# pip is silent while it unpacks, so a line every ten seconds says how far it is.
$(VENV)/.installed-%: pyproject.toml constraints.txt
	@command -v "$(PYTHON)" >/dev/null || \
	  { echo 'zs3: no interpreter named "$(PYTHON)"; install Python 3.11 or newer, or say make PYTHON=/path/to/python' >&2; exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "zs3: $(PYTHON) is $$("$(PYTHON)" --version 2>&1), and zs3 needs 3.11 or newer; say make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@if [ -e $(RUNTIME) ]; then echo 'zs3: adding to $(VENV) what is missing; packages that are there are not downloaded again'; else \
	  echo 'zs3: installing into $(VENV): about 3.5 GB to download and 7 GB on disk, most of it PyTorch with CUDA;'; \
	  echo 'zs3: 3 to 10 minutes, once.'; fi
	@test -x $(BIN)/python || "$(PYTHON)" -m venv $(VENV) || \
	  { rm -rf $(VENV); echo 'zs3: $(PYTHON) -m venv failed; on Debian and Ubuntu, install the package python3-venv' >&2; exit 1; }
	@(while sleep 10 >/dev/null 2>&1 && kill -0 $$$$ 2>/dev/null; do size=$$(du -sm $(VENV) | cut -f1); \
	    [ $$size -lt 100 ] || echo "zs3: $(VENV) has $$size of 7000 to 7500 MB"; done) & ticker=$$!; \
	  $(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt -e '.$(if $(filter runtime,$*),,[$*])'; \
	  status=$$?; kill $$ticker; exit $$status
	@touch $@ $(RUNTIME)
	@echo 'zs3: installed'
