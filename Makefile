# One command for each thing you do here. `make` alone explains them.

VENV := .venv
BIN := $(VENV)/bin
PYTHON ?= python3

.DEFAULT_GOAL := help
.PHONY: help install demo test bed cover check format bench clean

help: ## this text
	@echo "Sitestream: IoT data at the edge. Start with 'make demo'; working on the code, with 'make check test'."
	@echo
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-9s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo
	@echo "Only Python 3.11 or newer is needed for 'make demo'; PYTHON=python3.13 chooses another one."
	@echo "'make test' runs against real brokers, stores and containers: on Debian, as root, it installs what is missing;"
	@echo "elsewhere it names it. A part of the tests: $(BIN)/pytest tests/core -k window"

install: $(VENV)/installed ## everything for working on the code, in .venv

$(VENV)/installed: pyproject.toml tools/install.sh
	@PYTHON="$(PYTHON)" tools/install.sh $(VENV)
	@touch $@

demo: install ## a plant on this machine: devices, Kafka, windows, alarms, Parquet, dashboards
	@$(BIN)/python -m containers.demo

bed: install ## only set up the test bed: brokers, Docker engine, S3 server, Prometheus
	@tools/setup_test_bed.sh $(VENV)

test: bed ## every test, against real parts
	@$(BIN)/python -m pytest -n 2 --dist loadscope --no-loadscope-reorder

cover: bed ## which lines and branches of pipelines/ no test goes through; fails below 95 %
	@$(BIN)/python -m pytest --cov=pipelines --cov-branch --cov-report=term-missing:skip-covered --cov-fail-under=95 \
		tests/core tests/runtime tests/examples

check: install ## style, types and architecture
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: install ## rewrite the code in the project's style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: install ## measure throughput and latency on this machine
	@$(BIN)/python -m benchmarks

clean: ## remove .venv and caches of this folder (downloads in ~/.cache/sitestream stay)
	rm -rf $(VENV) build *.egg-info .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis
