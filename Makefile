# The whole developer interface. Each target makes .venv if it is missing or pyproject.toml changed.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed
# Two test processes share two cores; more threads each would only get in each other's way.
TEST_ENV := OMP_NUM_THREADS=1 HF_HUB_DISABLE_TELEMETRY=1

.PHONY: demo test lint docs

$(STAMP): pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@

demo: $(STAMP)
	$(BIN)/naf-hub demo --out out

test: $(STAMP)
	$(TEST_ENV) $(BIN)/python -m pytest --numprocesses 2

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

docs: $(STAMP)
	$(BIN)/python docs/generate.py
	$(BIN)/mkdocs build --strict
