# `make quickstart` and `make test` create the environment when it is missing or out of date.

VENV   := .venv
BIN    := $(VENV)/bin
# An environment made for GPUs stays one: setup, test and quickstart then use it as it is.
TARGET ?= $(if $(wildcard $(VENV)/.setup-gpu),gpu,cpu)
OTHER  := $(if $(filter gpu,$(TARGET)),cpu,gpu)
LOCK   := requirements/$(TARGET).lock
STAMP  := $(VENV)/.setup-$(TARGET)
PYTHON ?= $(shell command -v python3.11 || command -v python3)
PIP    := $(BIN)/python -m pip install --quiet --no-deps --no-compile --disable-pip-version-check
# Two processes: one for the tests that start Ray and vLLM, one for the others. tests/conftest.py divides them.
PYTEST_ARGS ?= -n 2
# Packages are installed without bytecode; the first import writes what is used. Where that is switched off, every
# process compiles all of vLLM and PyTorch again, and starts in twice the time.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help setup gpu-setup quickstart serve-demo test lint locks clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(STAMP) ## create or update .venv from requirements/cpu.lock

gpu-setup: ## the same from requirements/gpu.lock, for a machine with CUDA
	@$(MAKE) --no-print-directory setup TARGET=gpu

quickstart: $(STAMP) ## train SmolLM2-135M by GRPO on this machine and show what changed
	$(BIN)/rapport train quickstart

serve-demo: $(STAMP) ## start the reward servers on this machine and print a curl that works
	$(BIN)/rapport serve configs/serve/demo.yaml

test: lint ## lint, format check, types, and the test suite
	$(BIN)/python -m pytest $(PYTEST_ARGS)

lint: $(STAMP) ## ruff and mypy only
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

locks: $(STAMP) ## resolve anew and rewrite requirements/$(TARGET).lock
	$(BIN)/python requirements/make_locks.py $(TARGET)

clean: ## remove the environment and all caches; runs/ stays
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis

$(STAMP): $(LOCK) pyproject.toml requirements/check_torch.py
	@test ! -e $(VENV)/.setup-$(OTHER) || { echo "error: $(VENV) is a $(OTHER) environment; run make clean first" >&2; exit 2; }
	@test -n "$(PYTHON)" || { echo "error: no Python found; install Python 3.11 or give make PYTHON=/path/to/python3.11" >&2; exit 2; }
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info[:2] == (3, 11) else f"error: {sys.executable} is Python {sys.version.split()[0]}; Rapport needs 3.11: make PYTHON=/path/to/python3.11")'
	@test -x $(BIN)/python || { echo "creating $(VENV) with $$($(PYTHON) --version)"; $(PYTHON) -m venv $(VENV); }
	@echo "installing torch ($(TARGET))"
	@$(PIP) $$(grep '^torch==' $(LOCK))
	@$(BIN)/python requirements/check_torch.py $(TARGET)
	@echo "installing $$(grep -c '==' $(LOCK)) packages from $(LOCK); the first time this takes a few minutes"
	@$(PIP) -r $(LOCK)
	@$(PIP) --no-build-isolation -e .
	@touch $@
