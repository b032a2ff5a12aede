# The commands of this project. `make` alone lists them.
# The work is done in tools/; here is only the order of things.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= python3
VENV := .venv/bin
GENERATED := crds charts/deepspeed-operator/crds docs/api.md docs/cli.md tests/data
TRAINER_TESTS := tests/node/test_trainer_image.py
TESTS := tests/pure tests/wire tests/cluster tests/node

.PHONY: help
help: ## List the commands; CLUSTER=existing and CLUSTER=kind are told in docs/clusters.md
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: setup
setup: venv ## Build everything that demo and test need: programs, images (root, Linux: all of it)
	@$(VENV)/python -m tools.images

.PHONY: demo
demo: venv ## Train the example on a cluster made here; CLUSTER=existing or kind uses another
	@$(VENV)/python -m tools.demo

.PHONY: down
down: venv ## Remove the demo's cluster, or what it left on an existing one (CLUSTER as before)
	@$(VENV)/python -m tools.cluster down

.PHONY: test
test: setup ## Run all tests, from pure to real training (CLUSTER: where those train)
	@$(VENV)/pytest $(TESTS) --ignore=$(TRAINER_TESTS) -m "not full" --durations=10 \
	  --junitxml=build/reports/test.xml

# boto3 and the operator's kubernetes want different releases of one package: hence the folder.
.PHONY: test-full
test-full: setup ## Run the tests that build further programs: fake nodes, Kueue, S3 (minutes)
	@$(VENV)/pip install --quiet --upgrade --target build/s3-client "boto3>=1.44,<1.45"
	@PYTHONPATH=build/s3-client $(VENV)/pytest $(TESTS) --ignore=$(TRAINER_TESTS) -m full \
	  --durations=10 --junitxml=build/reports/full.xml

.PHONY: test-trainer
test-trainer: setup ## Run the trainer's own tests in its image: ends, resume, functions (minutes)
	@$(VENV)/pytest $(TRAINER_TESTS) --durations=10 --junitxml=build/reports/trainer.xml

.PHONY: seeds
seeds: venv ## Write docs/seeds.md from the reports of all tests; fails when something is not shown
	@$(VENV)/python -m tools.seeds build/reports/*.xml

.PHONY: bench
bench: setup ## Measure the start of a job beside RayJob, on two real nodes (half an hour)
	@$(VENV)/python -m tests.bench.start

.PHONY: scale
scale: setup ## Measure 1,000 jobs on fake nodes beside RayClusters alone and RayJobs
	@$(VENV)/python -m tests.scale.jobs

.PHONY: test-cold
test-cold: python ## The same from a fresh clone with an empty home and empty caches
	@$(PYTHON) -m tools.test_cold

.PHONY: check
check: venv ## Format, lint, types, import contracts and pure tests; no root, no cluster
	@$(VENV)/ruff format --check --quiet .
	@$(VENV)/ruff check --quiet .
	@$(VENV)/mypy
	@$(VENV)/lint-imports --no-cache
	@$(VENV)/pytest tests/pure --quiet

.PHONY: format
format: venv ## Format the code and mend what the linter can mend
	@$(VENV)/ruff format .
	@$(VENV)/ruff check --fix .

.PHONY: gen
gen: venv ## Write what is derived from the API types: CRD, chart copy, reference
	@$(VENV)/python -m tools.gen

.PHONY: verify
verify: gen ## Fail when the derived files are not those committed
	@git diff --exit-code -- $(GENERATED)
	@! git ls-files --others --exclude-standard -- $(GENERATED) | grep .

.PHONY: clean
clean: ## Remove what tools left in this folder; built programs and images stay in the cache
	@rm -rf .venv build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

.PHONY: venv
venv: python
	@$(PYTHON) -m tools.setup

# Checked here, because a Python that is too old cannot even read the tools.
.PHONY: python
python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "This needs Python 3.11 or newer, and '$(PYTHON)' is not: install it (Debian 12:" \
	    "apt-get install python3) or name it: make PYTHON=/path/to/python3.11 …" >&2; exit 1; }
