# Goldsmith. `make` explains; `make image` and `make test` do their own set-up on Debian 12 and 13.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
RECIPE ?= gpu-cc
DIST ?= dist/$(RECIPE)
VENV := .venv
PYTHON := $(VENV)/bin/python
STAMP := $(VENV)/.installed
HOST_PACKAGES := python3-venv python3-dev gcc pkg-config libtss2-dev debian-archive-keyring
TEST_PACKAGES := softhsm2

.PHONY: help image test lint boot reproduce bench host format clean

help: ## say what there is to make
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## (.*)/  make \1\t\2/' | expand -t 20

host: ## install the Debian packages that the host needs (asks nothing when they are there)
	@missing=$$(for name in $(HOST_PACKAGES) $(MORE_PACKAGES); do \
	    dpkg-query -W -f '$${Status}' $$name 2>/dev/null | grep -q 'ok installed' || echo $$name; done); \
	if [ -n "$$missing" ]; then \
	    sudo=$$([ "$$(id -u)" = 0 ] || echo sudo); \
	    echo "installing on this host:" $$missing; \
	    $$sudo apt-get -q update >/dev/null && \
	    DEBIAN_FRONTEND=noninteractive $$sudo apt-get -qy --no-install-recommends install $$missing >/dev/null; \
	fi

$(STAMP): requirements-bootstrap.txt requirements.txt pyproject.toml
	@$(MAKE) --no-print-directory host
	@test -x $(PYTHON) || python3 -m venv $(VENV)
	@$(PYTHON) -m pip install -q --disable-pip-version-check --require-hashes -r requirements-bootstrap.txt
	@$(PYTHON) -m pip install -q --disable-pip-version-check --require-hashes --no-build-isolation -r requirements.txt
	@$(PYTHON) -m pip install -q --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

image: $(STAMP) ## build RECIPE (default: gpu-cc; base is smaller) into dist/RECIPE, predict its registers, sign the golden document
	@$(VENV)/bin/goldsmith build $(RECIPE) --out $(DIST) --quickstart

boot: $(STAMP) ## boot dist/RECIPE in QEMU with a software TPM and verify it
	@test -e $(DIST)/disk.raw || $(MAKE) --no-print-directory image
	@$(VENV)/bin/goldsmith boot $(DIST)

test: $(STAMP) ## run every test, real boots included
	@$(MAKE) --no-print-directory host MORE_PACKAGES="$(TEST_PACKAGES)"
	@for recipe in base gpu-cc; do $(VENV)/bin/goldsmith fetch $$recipe || \
	    echo "without the locked archives, the tests that need them will say so"; done
	@$(PYTHON) -m pytest

lint: $(STAMP) ## ruff, mypy --strict, import contracts
	@$(VENV)/bin/ruff check .
	@$(VENV)/bin/ruff format --check .
	@$(VENV)/bin/mypy
	@$(VENV)/bin/lint-imports --no-logo

reproduce: $(STAMP) ## build base and gpu-cc again in other surroundings and compare every output
	@$(PYTHON) -m pytest -q tests/integration/test_reproducible.py

bench: $(STAMP) ## time every phase of a build
	@$(PYTHON) bench/build.py $(RECIPE)

format: $(STAMP) ## lay the code out
	@$(VENV)/bin/ruff check --fix -q .
	@$(VENV)/bin/ruff format -q .

clean: ## remove outputs, not the store
	@rm -rf dist build
