# make setup | demo | benchmarks | test | test-quick | lint | types | contracts | docs | clean | help. Everything runs in .venv, made on the first call.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# OMP and GOMP must be set before torch loads: two processes of one thread each, which do not wait for each other busily.
# Without bytecode on disk, each process of the tests compiles the project anew.
PYTEST := PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 GOMP_SPINCOUNT=1000 $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder
READY := $(VENV)/.ready

.DEFAULT_GOAL := help
.PHONY: help setup demo benchmarks test test-quick lint types contracts docs clean

help: ## show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):[^#]*## /  make \1\t/' | expand -t 20

setup: $(READY) ## make .venv and install clipstill with its development tools (6 GB on Linux)

# The stamp is the last thing written, so an install that was interrupted starts again and a finished one costs nothing.
$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "error: $(PYTHON) is older than 3.11. Name a newer one: make PYTHON=python3.12 ..." >&2; exit 2; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

demo: $(READY) ## everyday classes, from names to a measured ONNX model, into runs/demo
	$(BIN)/clipstill demo --out runs/demo

benchmarks: $(READY) ## the smallest form of the benchmarks that need no data: whether they run
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/gpu.py --limit smoke --device cpu
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/step_cost.py --images 2
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/synthesis.py --steps 2 --batches 1 2 --repeats 1
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/distillation.py --teacher embedded-s --pictures 8 --batch 4 --steps 1 \
	  --rounds 1 --image-size 64 --workers 1
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/decoding.py --megapixels 1

test: $(READY) lint types contracts ## lint, types, import contracts and tests
	$(PYTEST)

test-quick: $(READY) ## tests that take a few seconds at most
	$(PYTEST) -m "not slow"

lint: $(READY) ## ruff: rules and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(READY) ## mypy --strict on src, tools and benchmarks
	$(BIN)/mypy

contracts: $(READY) ## import-linter: who may import whom
	$(BIN)/lint-imports

docs: $(READY) ## the documentation site, into site/; a warning is an error
	$(BIN)/mkdocs build --strict

clean: ## remove .venv, site and caches; runs/ stays
	rm -rf $(VENV) site .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
