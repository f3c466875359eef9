# Two commands do all the set-up on a machine with Python 3.11, git and make:
#   make demo   plans Llama-3-70B on 64 nodes of DGX H100, explains the plan, draws the picture
#   make test   passes the tests
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
OUT ?= out

.PHONY: demo test lint bench validate specs clean
demo: $(VENV)/.ready
	$(BIN)/python -m studies.demo --out $(OUT)

test: $(VENV)/.ready
	$(BIN)/python -m pytest -q -n auto --maxprocesses 8

lint: $(VENV)/.ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(VENV)/.ready
	$(BIN)/python -m pytest -q -o addopts="--import-mode=importlib" --benchmark-only tests

validate: $(VENV)/.ready
	$(BIN)/perfmodel validate --out $(OUT)/validate

$(VENV)/.ready: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[dev]"
	touch $@

clean:
	rm -rf $(VENV) $(OUT)
