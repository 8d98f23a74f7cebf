# Commands that hold on a fresh machine with Python >= 3.11 and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.ready
LOCK := requirements-dev.lock
AS_ROOT := $(if $(filter 0,$(shell id -u)),,sudo)

.PHONY: demo test test-dev tmux check docs bench wheel-test lock clean

demo: $(STAMP)  ## urgent and background teams on a simulated provider; no key needed
	$(BIN)/headway demo

test: $(STAMP) tmux  ## the whole suite, and which share of the lines it executes
	mkdir -p build
	$(BIN)/python -m slipcover -m pytest
	$(BIN)/python tools/covered_share.py

test-dev: $(STAMP) tmux  ## the suite in Python's development mode, which is asyncio's debug mode too
	PYTHONDEVMODE=1 $(BIN)/python -m pytest --timeout 600

tmux:  ## the terminal of some tests; on Debian and Ubuntu it is installed if it is missing
	@command -v tmux > /dev/null || { $(AS_ROOT) apt-get update -qq && \
		$(AS_ROOT) apt-get install -qq --yes --no-install-recommends tmux; } || \
		echo 'tmux is not installed: the tests that need a terminal are skipped'

check: $(STAMP)  ## format, lint, spelling, types, public types, layers, docs, lock
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/codespell
	$(BIN)/mypy
	$(BIN)/python tools/typed_share.py
	$(BIN)/python -m pytest -q tests/test_layers.py tests/test_docs.py tests/test_repository.py
	$(BIN)/mkdocs build --strict --quiet

docs: $(STAMP)  ## the documentation as a site, in build/site; each warning is an error
	$(BIN)/mkdocs build --strict

bench: $(STAMP)  ## durable calls per second, and a burst of teams against the simulated provider
	$(BIN)/python -m benchmarks.throughput
	$(BIN)/python -m benchmarks.burst

WHEEL_TESTS := tests/test_package.py tests/test_examples.py tests/orchestrator/cli/test_cli.py \
	tests/orchestrator/demo/test_demo.py

wheel-test: $(STAMP)  ## build the wheel from the sdist, install it alone, compare it with the checkout, run its commands
	rm -rf build/wheel
	$(BIN)/hatchling build --target sdist --directory build/wheel
	$(BIN)/python -m pip wheel --quiet --no-deps --no-build-isolation --wheel-dir build/wheel \
		build/wheel/*.tar.gz
	$(BIN)/twine check --strict build/wheel/*
	$(PYTHON) -m venv --clear --without-pip build/wheel-venv
	$(BIN)/python -m pip hash build/wheel/*.whl | sed 's/:$$/ \\/' > build/wheel/requirements.txt
	$(BIN)/python -m pip --python build/wheel-venv/bin/python install --quiet \
		--constraint $(LOCK) --group test --requirement build/wheel/requirements.txt
	TEST_INSTALLED_WHEEL=1 build/wheel-venv/bin/python -m pytest $(WHEEL_TESTS)

lock:  ## pin what pyproject.toml asks for; LOCK_OPTIONS=--upgrade also takes newer versions
	$(PYTHON) -m venv --clear build/lock-venv
	build/lock-venv/bin/python -m pip install --quiet 'uv>=0.9,<1'
	UV_CUSTOM_COMPILE_COMMAND='make lock' build/lock-venv/bin/uv pip compile --quiet \
		--universal --python-version 3.11 --no-python-downloads --generate-hashes \
		--all-extras --group dev $(LOCK_OPTIONS) --output-file $(LOCK) pyproject.toml

$(STAMP): pyproject.toml $(LOCK)
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Headway needs Python 3.11 or newer")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --requirement $(LOCK)
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	touch $@

clean:
	rm -rf $(VENV) build dist
