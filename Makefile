# Two commands are all the set-up: `make demo` and `make test`. Each makes .venv and installs what it needs.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PROJECTS := $(wildcard plugins/*/pyproject.toml)
PLUGINS := $(foreach project,$(PROJECTS),-e $(dir $(project)))

.PHONY: demo test torture gpu lint install clean help

help:
	@echo "make demo   train, detach and merge on the embedded world; writes runs/demo"
	@echo "make test   run the tests"
	@echo "make torture   kill training and cache builds at random moments, again and again"
	@echo "make gpu    the proofs that need a GPU, and the kernels measured on it"
	@echo "make lint   ruff and pyright"

demo: $(STAMP)
	$(BIN)/tove demo --out runs/demo --overwrite

# The tests' tensors are small: threads cost more than they give. Each process takes about 1.5 GB. A file's tests stay in
# one of them, which makes what they share once; tests/conftest.py puts slow files first, and they stay there.
JOBS ?= 2
test: export OMP_NUM_THREADS ?= 1
test: $(STAMP)
	$(BIN)/pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder $(TESTARGS)

# Kills at random moments, 20 times where `make test` does it 3 times.
torture: export OMP_NUM_THREADS ?= 1
torture: export TOVE_TORTURE ?= 20
torture: $(STAMP)
	$(BIN)/pytest tests/training tests/data -k killed $(TESTARGS)

# On a machine with a GPU. A target that is missed (exit status 1) is told, and the page is made all the same.
gpu: $(STAMP)
	$(BIN)/pytest -m gpu $(TESTARGS)
	-$(BIN)/python kernels/benchmarks/run.py --out docs/benchmarks/kernels-gpu.csv
	$(BIN)/python kernels/benchmarks/page.py

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python

install: $(STAMP)

# uv is faster, pip reads the user's pip.conf: set UV= (empty) to use pip although uv is there.
UV ?= $(shell command -v uv 2>/dev/null)

$(STAMP): pyproject.toml $(PROJECTS)
	@echo "installing tove and its dependencies into $(VENV) (about 5.5 GB the first time)"
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
ifeq ($(UV),)
	$(BIN)/python -m pip install --quiet -e ".[dev]" $(PLUGINS)
else
	$(UV) pip install --quiet --python $(BIN)/python -e ".[dev]" $(PLUGINS)
endif
	@touch $@

clean:
	rm -rf $(VENV) runs build dist .pytest_cache .ruff_cache
