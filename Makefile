# make demo: digits out of noise.   make test: everything that must pass.   make slow: the long tests.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: install demo test slow
install: .venv/installed

.venv/installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Expected Python 3.11 or newer; type PYTHON=python3.12 behind make.")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[test]'
	@touch $@

demo: install
	$(BIN)/sfumato train digits --run runs/demo --images 36k --batch 64
	$(BIN)/sfumato sample runs/demo -n 64 --gif --copies
	@echo "Look at runs/demo/report.html, runs/demo/out/s0-grid.png and runs/demo/out/s0-grid.gif"

test: install
	$(BIN)/ruff check --no-cache .
	$(BIN)/ruff format --no-cache --check .
	$(BIN)/mypy --cache-dir=.venv/mypy
	$(BIN)/python -m pytest -n 2

slow: install
	$(BIN)/python -m pytest -m slow
