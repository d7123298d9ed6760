# Each target makes the virtual environment it needs. PYTHON picks the interpreter (3.11 or later).
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
# The peers are compared against PyTorch on the CPU; a plain "torch" may bring gigabytes of CUDA.
TORCH  ?= torch==2.13.0

# Small LAPACK calls on several threads wait for one another on a machine that is shared.
export OPENBLAS_NUM_THREADS ?= 1

.PHONY: demo test lint bench bench-gpu clean

demo: $(VENV)/.demo
	$(BIN)/python experiments/vanishing_gradient.py

test: $(VENV)/.test
	$(BIN)/python -m pytest --numprocesses auto --dist worksteal

lint: $(VENV)/.lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(VENV)/.test
	$(BIN)/python -m benchmarks

# On a machine with an NVIDIA GPU, beside cuDNN through PyTorch and through jax.experimental.rnn.
bench-gpu: $(VENV)/.test
	$(BIN)/python -m pip install --quiet --editable '.[test,peers,cuda]'
	$(BIN)/python -m benchmarks --platform gpu --out benchmarks/RESULTS_GPU.md

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip

$(VENV)/.demo: $(VENV)/bin/python pyproject.toml
	$(BIN)/python -m pip install --quiet --editable '.[experiments]'
	touch $@

$(VENV)/.test: $(VENV)/bin/python pyproject.toml
	$(BIN)/python -m pip install --quiet '$(TORCH)'
	$(BIN)/python -m pip install --quiet --editable '.[test,peers]'
	touch $@

$(VENV)/.lint: $(VENV)/bin/python pyproject.toml
	$(BIN)/python -m pip install --quiet --editable '.[experiments,test,lint]'
	touch $@

clean:
	rm -rf $(VENV) results
