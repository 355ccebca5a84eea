# Two commands on a fresh machine: `make demo` runs the main job, `make test` passes the tests.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet

.PHONY: help demo serve test test-postgres lint bench bench-quick bench-scale attacks fuzz docs picture lock clean

help:  ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

$(INSTALLED): tests/requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "Python 3.11 or newer is needed; name it with: make PYTHON=python3.12 ..." >&2; exit 2; }
	@echo "Making a virtual environment in $(VENV) (once, a few seconds) ..."
	@$(PYTHON) -m venv $(VENV)
	@echo "Installing what tests/requirements.lock names into $(VENV) (once, about 30 s) ..."
	@$(PIP) install --require-hashes -r tests/requirements.lock
	@echo "Installing the receiver and the client into $(VENV) (a few seconds) ..."
	@$(PIP) install --no-deps --no-build-isolation --editable .
	@touch $@

demo: $(INSTALLED)  ## two sandboxes, a receiver and clients: 34 tasks of both services, under a minute
	@$(BIN)/callback-client demo

serve: $(INSTALLED)  ## the receiver on loopback, without keys, for development
	RECEIVER_ALLOW_ANONYMOUS=true RECEIVER_HOST=127.0.0.1 RECEIVER_PORT=8080 RECEIVER_LOG_FORMAT=console \
		RECEIVER_PUBLIC_URL=http://127.0.0.1:8080 $(BIN)/callback-receiver serve

test: lint  ## lint, then all tests
	$(BIN)/python -m pytest -n 6 --dist worksteal

test-postgres: $(INSTALLED)  ## tests of receivers with PostgreSQL in place of SQLite, and the long ones of it
	$(BIN)/python -m pytest -n 3 --dist worksteal --postgres tests/client/following tests/client/receiver_api \
		tests/contracts tests/faults tests/flows tests/properties tests/receiver

lint: $(INSTALLED)  ## ruff, mypy strict, import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

bench: $(INSTALLED)  ## figures, side by side in one run, and their plots in build/bench
	@mkdir -p build/bench
	$(BIN)/python -m tests.benchmarks --json build/bench/figures.json
	@$(BIN)/python -m tests.benchmarks.plots build/bench/figures.json build/bench

bench-quick: $(INSTALLED)  ## the same with fewer rounds and 64 connections alone, in two minutes
	$(BIN)/python -m tests.benchmarks --quick

bench-scale: $(INSTALLED)  ## with 10 million results, a million open tasks, 15,000 connections
	@mkdir -p build/bench
	$(BIN)/python -m tests.benchmarks.scale --json build/bench/scale.json

attacks: $(INSTALLED)  ## honest callbacks beside attackers: latencies and memory, in five minutes
	$(BIN)/python -m tests.faults.attacks

fuzz: $(INSTALLED)  ## changed and made-up messages through every dialect, for two minutes
	$(BIN)/python -m tests.fuzzing --seconds 120

docs: $(INSTALLED)  ## renews the generated tables and pages, asyncapi.json and openapi.json
	$(BIN)/python -m tests.readme

picture: $(INSTALLED)  ## runs the demo and renews its picture, deploy/demo.svg
	$(BIN)/python -m tests.demo_picture

lock: $(INSTALLED)  ## renews both locks from pyproject.toml
	$(PIP) install uv
	$(BIN)/uv pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes --no-annotate \
		--no-header --no-emit-index-url --no-emit-find-links --extra dev pyproject.toml -o tests/requirements.lock
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-annotate --no-header \
		--no-emit-index-url --no-emit-find-links -c tests/requirements.lock --extra notices --extra postgres pyproject.toml -o deploy/requirements.lock

clean:  ## removes what was installed and built
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .hypothesis *.egg-info
