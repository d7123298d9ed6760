# Each target makes the virtual environment it needs. PYTHON picks the interpreter (3.11 or later).
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
# The tests and benchmarks beside PyTorch need a build for the CPU: a plain "torch" may bring
# gigabytes of CUDA. Where pip finds none, they are left out and say so; TORCH=torch takes what
# there is, TORCH= none.
TORCH  ?= torch==2.13.0+cpu
# For `make test-part`: the first test of each file and every so many after it.
EVERY  ?= 8

# Small LAPACK calls on several threads wait for one another on a machine that is shared.
export OPENBLAS_NUM_THREADS ?= 1

.PHONY: demo test test-part test-gpu lint bench bench-gpu clean

demo: $(VENV)/.demo
	$(BIN)/python experiments/vanishing_gradient.py

test: $(VENV)/.test
	$(BIN)/python -m pytest --numprocesses auto --dist worksteal

test-part: $(VENV)/.test
	$(BIN)/python -m pytest --numprocesses auto --dist worksteal --every $(EVERY)

# On a machine with an NVIDIA GPU: what runs on no other.
test-gpu: $(VENV)/.test
	$(BIN)/python -m pip install --quiet --editable '.[test,cuda]'
	$(BIN)/python -m pytest tests/gpu

lint: $(VENV)/.lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(VENV)/.test
	$(BIN)/python -m benchmarks

# On a machine with an NVIDIA GPU, beside cuDNN through PyTorch and through jax.experimental.rnn. In
# an environment of its own, because PyTorch's build for the CPU has no cuDNN.
bench-gpu: $(VENV)-gpu/.bench
	$(VENV)-gpu/bin/python -m benchmarks.gpu

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip

$(VENV)/.demo: $(VENV)/bin/python pyproject.toml
	$(BIN)/python -m pip install --quiet --editable '.[experiments]'
	touch $@

$(VENV)/.test: $(VENV)/bin/python pyproject.toml
	$(BIN)/python -m pip install --quiet --editable '.[test]'
	$(if $(TORCH),$(BIN)/python -m pip install --quiet '$(TORCH)' \
		|| echo "No $(TORCH) for this Python: what is held against PyTorch will be skipped.")
	touch $@

$(VENV)-gpu/.bench: pyproject.toml
	$(PYTHON) -m venv $(VENV)-gpu
	$(VENV)-gpu/bin/python -m pip install --quiet --upgrade pip
	$(VENV)-gpu/bin/python -m pip install --quiet --editable '.[test,peers,cuda]'
	touch $@

$(VENV)/.lint: $(VENV)/bin/python pyproject.toml
	$(BIN)/python -m pip install --quiet --editable '.[experiments,test,lint]'
	touch $@

clean:
	rm -rf $(VENV) .venv-* results
