# Everything runs in a virtual environment that the first call makes; PYTHON chooses its interpreter (>= 3.11).
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: help demo test bench docs lint format clean

help:
	@echo "make demo    the symmetry-breaking experiment on real images, five arms, about a minute"
	@echo "make test    ruff, pyright and pytest"
	@echo "make bench   speed and memory against a bare loop, published scripts and wandb.watch; over an hour"
	@echo "make docs    the API as HTML, from the docstrings, in build/docs"
	@echo "make lint    ruff and pyright alone"
	@echo "make format  ruff's formatter and its safe fixes"

# torch and torchvision are resolved in one pip call, so that the pair always matches.
$(READY): pyproject.toml
	@echo "Setting up $(VENV): torch alone is several GB, so this takes a few minutes once."
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check -e '.[dev]'
	$(BIN)/python -c "import torch, torchvision"
	@touch $@

demo: $(READY)
	$(BIN)/symbreak sweep sweeps/quickstart.yaml

# One thread a worker: with more, every kernel waits for a core that another test holds.
test: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto

# Ratios of contenders that take turns; each file's table lies beside its JSON. RESULTS chooses another place.
RESULTS ?= sweeps/results/benchmarks_cpu
BENCHMARKS ?= $(patsubst tests/benchmarks/bench_%.py,%,$(wildcard tests/benchmarks/bench_*.py))
bench: $(READY)
	mkdir -p $(RESULTS)
	for each in $(BENCHMARKS); do \
		$(BIN)/python -m pytest tests/benchmarks/bench_$$each.py -p no:cacheprovider \
			--benchmark-json=$(RESULTS)/$$each.json || exit 1; \
	done

docs: $(READY)
	$(BIN)/pdoc --docformat google --output-directory build/docs symbreak
	@echo "The API is in build/docs/index.html"

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python

format: $(READY)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf $(VENV) build *.egg-info .pytest_cache .ruff_cache
