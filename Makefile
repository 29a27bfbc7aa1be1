# Two commands matter: `make run` (try it) and `make test` (prove it). The rest serves them.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed

.PHONY: run test venv lint bench torture clean

run: venv
	@$(BIN)/ciris-billing dev

test: venv
	$(BIN)/python -m tests.system_programs
	$(BIN)/python -m pytest

venv: $(STAMP)

$(STAMP): setup.cfg pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed: make PYTHON=python3.12 ...") if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[embedded,test]'
	@touch $(STAMP)

lint: venv
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: venv
	$(BIN)/python -m bench

torture: venv
	HYPOTHESIS_PROFILE=torture $(BIN)/python -m pytest tests/sql/test_ledger_model.py

clean:
	rm -rf $(VENV) build dist *.egg-info .data
