# Commands that hold on a fresh machine with Python >= 3.11 and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.ready

.PHONY: demo test check bench wheel-test clean

demo: $(STAMP)  ## urgent and background teams on a simulated provider; no key needed
	$(BIN)/headway demo

test: $(STAMP)  ## the whole suite
	$(BIN)/python -m pytest

check: $(STAMP)  ## format, lint, types, docs
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q tests/test_layers.py tests/test_docs.py

bench: $(STAMP)  ## durable calls per second, and a burst of teams against the simulated provider
	$(BIN)/python -m benchmarks.throughput
	$(BIN)/python -m benchmarks.burst

WHEEL_TESTS := tests/test_package.py tests/test_examples.py tests/orchestrator/test_cli.py \
	tests/orchestrator/test_demo.py

wheel-test:  ## build the wheel, install it alone, compare it with the checkout, run its commands
	$(PYTHON) -m venv --clear build/wheel-venv
	build/wheel-venv/bin/python -m pip install --quiet --upgrade 'pip>=25.1' build
	rm -rf build/wheel
	build/wheel-venv/bin/python -m build --wheel --outdir build/wheel .
	build/wheel-venv/bin/python -m pip install --quiet --group dev build/wheel/*.whl
	TEST_INSTALLED_WHEEL=1 build/wheel-venv/bin/python -m pytest $(WHEEL_TESTS)

$(STAMP): pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Headway needs Python 3.11 or newer")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade 'pip>=25.1'
	$(BIN)/python -m pip install --quiet --group dev --editable .
	touch $@

clean:
	rm -rf $(VENV) build dist
