# Each target sets up what it needs in .venv, once; another Python: make PYTHON=python3.12 install.
# On Linux, PyPI's torch brings CUDA along. Without it, and gigabytes smaller:
#   PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu make install
PYTHON ?= python3
SUPERNODES ?= 2
OVERRIDES ?=
BENCH ?=
RUNS ?= paper
JOBS ?= 2
MNIST ?=
MOVIES ?=
MINILM ?=
PAPER := counterexample linear_regression logistic_regression federated_theory table3 table5 federated communication movies
BIN := .venv/bin

.DEFAULT_GOAL := help
.PHONY: help install run test docker-test lint docs bench models-table paper paper-page

help: ## print this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: .venv/installed ## install fedrac and its tools into .venv, in the versions of constraints.txt

run: .venv/installed ## run the default experiment on Flower; SUPERNODES=4 OVERRIDES='rounds=5 cohort.size=20'
	@$(BIN)/python -m fedrac.flower --supernodes $(SUPERNODES) $(OVERRIDES)

test: .venv/installed ## run all tests
	$(BIN)/pytest -n 2 --dist loadgroup

docker-test: .venv/installed ## a federation in real containers; DOCKER_BUILD_ARGS='--build-arg PIP_ARGS=', COMPOSE=docker-compose
	FEDRAC_DOCKER=1 DOCKER_BUILD_ARGS="$(DOCKER_BUILD_ARGS)" $(BIN)/pytest -rs -s tests/deployment/test_docker.py

lint: .venv/installed ## check style, format, types, and which package imports which
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy fedrac server_app client_app
	$(BIN)/lint-imports

docs: .venv/installed ## build the pages as a site, into site/; needs no network
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo 'open site/index.html'

bench: .venv/installed .venv-pfl/installed .venv-jax/installed ## compare speed and memory with others, a quarter of an hour; BENCH='W1 W6', BENCH=--quick
	@$(BIN)/python -m benchmarks $(BENCH)

models-table: .venv/installed ## every architecture against plain PyTorch, into the table of docs/models.md; 5 minutes
	@$(BIN)/python tests/models

paper: .venv/installed ## all tables and figures, and docs/results.md; MNIST=FOLDER of its IDX files, MOVIES=FILE, MINILM=FOLDER; an hour and a half on 2 cores
	@failed=0; for item in $(PAPER); do $(MAKE) --no-print-directory paper-$$item || failed=1; done; \
	  $(MAKE) --no-print-directory paper-page; exit $$failed

paper-page: .venv/installed ## docs/results.md from the runs that there are in RUNS=paper
	@$(BIN)/python -m experiments '$(RUNS)' docs

# One table or figure, e.g. make paper-table3 MNIST=/data/mnist. Runs that are finished are not run again.
paper-%: .venv/installed
	@PATH="$(CURDIR)/$(BIN):$$PATH" RUNS='$(RUNS)' JOBS='$(JOBS)' MNIST='$(MNIST)' MOVIES='$(MOVIES)' MINILM='$(MINILM)' \
	  sh experiments/run.sh $*

.venv/installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' \
	  || { echo 'fedrac runs on Python 3.11 to 3.13: make PYTHON=python3.12 ...'; exit 1; }
	@echo 'Installing into .venv; the first time takes minutes.'
	@$(PYTHON) -m venv .venv
	@$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@

# Peers that the benchmarks compare with: pfl wants older versions of what fedrac uses, and JAX has threads of its own.
PFL := pfl==0.6.0
JAX := jax==0.10.2 safetensors
.venv-%/installed: constraints.txt
	@rm -rf .venv-$*; $(PYTHON) -m venv .venv-$*
	@echo 'Installing $* into .venv-$*; the first time takes a minute.'
	@.venv-$*/bin/pip install --quiet --disable-pip-version-check \
	  $(if $(filter pfl,$*),$(PFL),$(JAX)) $$(grep -E '^(numpy|torch)==' constraints.txt) \
	  || { echo '$* cannot be installed here: the comparison goes without it.'; rm -rf .venv-$*/bin; }
	@touch $@
