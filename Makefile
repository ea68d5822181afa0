# The commands of the README. Each makes .venv from requirements.lock first, if that is out of date.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test cluster-test lint bench lock
.DEFAULT_GOAL := test

demo: .venv/ready
	$(BIN)/refsweep demo

test: .venv/ready
	$(BIN)/python -m pytest -n logical --dist loadfile

# Real servers and hosts, for minutes; .ci/packages says what of them comes from apt.
cluster-test: .venv/ready
	$(BIN)/python -m pytest -m cluster

lint: .venv/ready
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/python tests/lint_types.py

bench: .venv/ready
	$(BIN)/python -m refsweep.benchmarks

# requirements.lock names no package index, so that it works behind any mirror.
lock:
	uv pip compile pyproject.toml --extra dev --universal --python-version 3.11 --generate-hashes \
		--no-emit-index-url --no-header --quiet --output-file requirements.lock

.venv/ready: requirements.lock pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	command -v uv >/dev/null || $(BIN)/python -m pip install --quiet uv
	PATH="$$PATH:$(CURDIR)/$(BIN)" uv pip install --quiet --compile-bytecode --python $(BIN)/python --require-hashes -r requirements.lock
	PATH="$$PATH:$(CURDIR)/$(BIN)" uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	touch $@
