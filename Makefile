# Everything here sets itself up on a fresh Debian 12 or Ubuntu with make and Python 3.11+, and is quick the second time.
VENV ?= .venv
PY := $(VENV)/bin/python
export VENV
# tests that need nothing but this process
ALONE := not kafka and not services and not process and not soak
.DEFAULT_GOAL := help
.PHONY: help venv lock services kafka demo quick lint test soak clean

help: ## this list
	@sed -nE 's/^([a-z]+):[^#]*## (.*)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 18

venv: ## the virtual environment, from the lock file (needs Python 3.11+)
	@bash deploy/setup/venv.sh

lock: venv ## resolve pyproject.toml into deploy/requirements/*.txt (UPGRADE=1: to the newest allowed)
	@bash deploy/setup/lock.sh

services: ## system packages that the tests start: Java, Maven, Chromium, Prometheus, ... (apt, when root)
	@bash deploy/setup/services.sh

kafka: venv services ## the jars of the Apache Kafka that the tests start, into .cache/kafka
	@$(PY) -m aiopsd.testing.kafka

demo: venv ## plays an outage through the real daemon and shows what it made of it; Ctrl-C ends it
	@$(PY) -m simulations demo

lint: venv ## ruff, mypy --strict, import contracts
	@echo "lint: ruff, mypy, lint-imports"
	@$(VENV)/bin/ruff check .
	@$(VENV)/bin/ruff format --check .
	@$(VENV)/bin/mypy
	@PATH="$(VENV)/bin:$$PATH" $(VENV)/bin/lint-imports

quick: lint ## the inner loop, under a minute: lint, then unit, property, golden and playbook tests
	@echo "quick: tests without services"
	@$(PY) -m pytest -n 2 -m "$(ALONE)" tests/unit tests/property tests/playbook

test: lint kafka ## everything but soak: lint, all tests, real Kafka, Prometheus, Chromium where they are
	@echo "test: first what needs no service, on two processes; then what starts real ones"
	@$(PY) -m pytest -n 2 -m "$(ALONE)" tests
	@$(PY) -m pytest -m "not soak and not ($(ALONE))" tests

soak: kafka ## the long crash and timing runs
	@echo "soak: crash and timing runs"
	@$(PY) -m pytest -m soak tests

clean: ## removes the environment, caches and build output
	rm -rf $(VENV) .cache build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
