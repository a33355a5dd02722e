# Two commands on a fresh machine: `make demo` and `make test`. All need only python3 (3.11+) with venv, and make.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SOURCES := $(shell find tscc_stream models -type f -not -name '*.pyc') pyproject.toml constraints.txt config.yaml README.md LICENSE

.PHONY: install demo test check bench wheelhouse format clean

install: $(VENV)/installed

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

# The tests and the demo run what a user would install: the built wheel, not the source folder.
$(VENV)/installed: $(SOURCES) | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt "build>=1.2"
	rm -rf build dist && $(BIN)/python -m build --wheel --outdir dist .
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt "$$(ls $(CURDIR)/dist/*.whl)[test,check]"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --force-reinstall --no-deps dist/*.whl
	touch $@

demo: install
	$(BIN)/tscc-stream demo

# The stages must be covered completely, branches included. Many tests wait for processes: three run at a time.
# TSCC_EXAMPLES=200 make test: a longer hunt by the property tests.
test: install
	$(BIN)/python -P -m pytest tests -n 3 --dist loadfile --no-loadscope-reorder --cov=tscc_stream.stages --cov-branch --cov-fail-under=100 \
	  --cov-report=term-missing:skip-covered

check: install
	$(BIN)/ruff format --check tscc_stream tests
	$(BIN)/ruff check tscc_stream tests
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: install
	$(BIN)/tscc-stream bench all

# What a machine without internet is installed from.
wheelhouse: install
	sh packaging/wheelhouse.sh $(BIN)/python $(CURDIR)/wheelhouse

format: install
	$(BIN)/ruff format tscc_stream tests
	$(BIN)/ruff check --fix tscc_stream tests

clean:
	rm -rf $(VENV) build dist wheelhouse wheelhouse.tar .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
