# `make demo` and `make test` need nothing but Python 3.11, make and bash; the rest sets itself up.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help setup demo test test-fast check format soak bench bench-peers docs lock

BIN := .venv/bin
RUN := $(BIN)/python
ROWS ?=
SOAK ?= 30
TRANSPORT ?= nats
PY := src tests benchmarks docs examples

help:  ## list the targets
	@grep -E '^[a-z-]+:.*##' Makefile | sed -E 's/^([a-z-]+):[^#]*## /\1\t/' | expand -t 12

setup:  ## make .venv with everything at its locked version; leaves .venv/bin/asya
	@requirements/setup.sh

demo: setup  ## run examples/01-search from nothing to nothing; STAY=1 keeps the mesh up
	@$(RUN) examples/01-search/demo.py $(if $(STAY),--stay)

test: setup check  ## all checks, then all tests; ARGS= goes to pytest
	@requirements/brokers.sh
	$(RUN) -m pytest -n 4 --dist worksteal -q $(ARGS)

# What needs no server: the tests to run while you work.
FAST := tests/unit tests/scenarios tests/project tests/contract/test_memory.py

test-fast: setup  ## the tests that need no server, in under 5 minutes on 2 cores; ARGS= as above
	$(RUN) -m pytest -n 2 --dist worksteal -q -m "not slow" $(FAST) $(ARGS)

check: setup  ## format, lint, types, layers, generated docs; prints figures of the code
	$(BIN)/ruff check $(PY)
	$(BIN)/ruff format --check $(PY)
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(RUN) docs/generate.py --check
	-@$(RUN) tests/project/figures.py

format: setup  ## put the code into the one format
	$(BIN)/ruff check --fix-only --quiet $(PY)
	$(BIN)/ruff format $(PY)

soak: setup  ## kill processes at random for SOAK=30 seconds, on TRANSPORT=nats or rabbitmq
	$(RUN) tests/soak/soak.py --seconds $(SOAK) --transport $(TRANSPORT) $(ARGS)

bench: setup  ## measure; ROWS="P3 P8" picks rows, ROWS=transport the transports alone
	@$(RUN) benchmarks/run.py --rows "$(ROWS)"

bench-peers:  ## install the peers that `make bench` then measures in the same run
	python3 -m venv benchmarks/peers/.venv
	benchmarks/peers/.venv/bin/python -m pip install --quiet -r benchmarks/peers/requirements.txt
	python3 -m venv benchmarks/peers/.venv-queues
	benchmarks/peers/.venv-queues/bin/python -m pip install --quiet -r benchmarks/peers/requirements-queues.txt

docs: setup  ## write the generated pages of docs/reference
	$(RUN) docs/generate.py

# The locks hold versions and hashes, no address: whatever index is configured serves them.
LOCK := uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header \
	--no-emit-index-url --no-annotate

lock:  ## write the locks anew from pyproject.toml (needs uv)
	$(LOCK) --extra local --extra testing --group examples -o requirements/run.lock pyproject.toml
	$(LOCK) --group dev -c requirements/run.lock -o requirements/dev.lock
