# `make` lists the targets. Everything runs inside .venv, which `make setup` creates in this folder.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
UPSTREAM_PIP := $(BIN)/python -m pip --python .venv-upstream/bin/python
QUIX := .venv-quix/bin/python
INSTALLED := --quiet --constraint constraints.txt --editable '.[demo,bench,dev]'

# The numeric libraries gain nothing from more threads here, and two workers would fight for them.
export OMP_NUM_THREADS ?= 1
export OPENBLAS_NUM_THREADS ?= 1
# Set in many images. Every worker and command would compile what it imports anew, which is most of a start.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-ops check check-upstream chaos bench clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(STAMP) ## Install everything into .venv; quick when nothing changed

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.11")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt uv
	@# A quarter of pip's time, from pip's index; where uv cannot (it does not know all of pip's settings), pip can.
	index=$${PIP_INDEX_URL:-$$($(BIN)/python -m pip config get global.index-url 2> /dev/null)}; \
	  $(BIN)/uv pip install --python $(BIN)/python --system-certs $${index:+--default-index "$$index"} $(INSTALLED) \
	  || $(BIN)/python -m pip install --no-compile $(INSTALLED)
	@# Compiled now, or a worker's first text would wait for it. Kafka comes meanwhile; where it cannot, its start says why.
	$(BIN)/python -c 'from worker.kafka import distribution; distribution.jars()' 2> /dev/null & \
	  $(BIN)/python -c 'import sentence_transformers'; wait
	touch $(STAMP)

demo: setup ## Route real prompts through Kafka and two workers, then report (PRESET=paper, ARGS="--queries 600")
	$(BIN)/pilot demo $(if $(PRESET),--preset $(PRESET)) $(ARGS)

# The broker's tests mostly wait, so four processes share two cores. Files keep their order: those that wait are first.
test: check ## Lint, types and all tests; those of the broker start a local Kafka (ARGS="-m 'not broker'")
	$(BIN)/pytest --numprocesses 4 --dist loadfile --no-loadscope-reorder $(ARGS)

test-ops: setup ## Tests before Chromium, promtool, kubectl and a broker with TLS, which must be installed
	@for tool in promtool kubectl chromium openssl; do \
	  command -v $$tool > /dev/null || { echo "test-ops needs $$tool (Debian: prometheus, kubernetes-client, chromium, openssl)"; exit 2; }; \
	done
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[ops]'
	$(BIN)/pytest tests/ops $(ARGS)

check: setup ## Lint, formatting and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

check-upstream: setup ## Try the newest Faust and aiokafka in .venv-upstream; the tests say what broke (ARGS as for test)
	test -x .venv-upstream/bin/python || $(BIN)/python -m venv --without-pip .venv-upstream
	$(BIN)/python -c 'import site; print(site.getsitepackages()[0])' > "$$(echo .venv-upstream/lib/python*/site-packages)/rest.pth"
	$(UPSTREAM_PIP) install --quiet --upgrade --ignore-installed --no-deps faust-streaming mode-streaming aiokafka
	$(UPSTREAM_PIP) install --quiet --no-deps --editable .
	$(UPSTREAM_PIP) list --path .venv-upstream/lib/python*/site-packages
	UPSTREAM_UNCHECKED=1 .venv-upstream/bin/python -m pytest $(ARGS)

chaos: setup ## Long chaos runs on a broker of their own (ARGS="--runs 10 --seed 1")
	$(BIN)/python -m tests.chaos $(ARGS)

bench: setup $(QUIX) ## Run the benchmarks
	@for script in core_speed.py head_to_head.py "throughput.py --peer $(QUIX)" recovery.py; do \
	  echo "== $$script"; $(BIN)/python benchmarks/$$script || exit 1; \
	done

# Quix Streams pins older versions of what the worker uses, so it has an environment of its own.
$(QUIX):
	$(PYTHON) -m venv .venv-quix
	.venv-quix/bin/python -m pip install --quiet quixstreams==3.28.1

clean: ## Remove caches and build output; .venv and data stay
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find worker tests benchmarks scripts -name __pycache__ -prune -exec rm -rf {} +
