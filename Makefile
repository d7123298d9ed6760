# Each target makes the virtual environment it needs. PYTHON picks the interpreter (3.11 or later).
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
# The tests and benchmarks beside PyTorch, and beside cells that others wrote in it, need a build for
# the CPU: a plain "torch" may bring gigabytes of CUDA. Where pip finds none, they are left out and
# say so; TORCH=torch takes what there is, TORCH= none.
TORCH  ?= torch==2.13.0+cpu
# Apart from the others, because JAX looks for the devices of all plugins that it finds installed.
AOT    := $(VENV)-aot
# For `make test-part`: the first test of each file and every so many after it.
EVERY  ?= 8

# Small LAPACK calls on several threads wait for one another on a machine that is shared.
export OPENBLAS_NUM_THREADS ?= 1

.PHONY: demo docs test test-part test-aot test-gpu lint wheel bench bench-gpu clean

demo: $(VENV)/.demo
	$(BIN)/python experiments/vanishing_gradient.py

# Checks that need no pages, then the pages: every notebook is run, and any warning is an error.
docs: $(VENV)/.docs
	$(BIN)/python -m pytest --numprocesses auto --dist worksteal docs/checks --ignore docs/checks/browser
	$(BIN)/sphinx-build --fail-on-warning --keep-going --nitpicky --jobs auto --quiet docs docs/_build/html
	@echo "The guide: docs/_build/html/index.html"

test: $(VENV)/.test
	$(BIN)/python -m pytest --numprocesses auto --dist worksteal

test-part: $(VENV)/.test
	$(BIN)/python -m pytest --numprocesses auto --dist worksteal --every $(EVERY)

# Compiles for a TPU and for an NVIDIA GPU, neither of which need be here.
test-aot: $(AOT)/.aot
	JAX_PLATFORMS=cpu $(AOT)/bin/python -m pytest --numprocesses auto --dist worksteal \
		tests/ahead_of_time

# On a machine with an NVIDIA GPU: what runs on no other.
test-gpu: $(VENV)-gpu/.peers
	$(VENV)-gpu/bin/python -m pytest tests/gpu

lint: $(VENV)/.lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Builds the wheel and the sdist, and tries each in an environment that holds nothing else.
wheel: $(VENV)/.build
	rm -rf dist
	$(BIN)/python -m build --outdir dist .
	$(BIN)/python tests/distribution/try_distribution.py dist/*

bench: $(VENV)/.test
	$(BIN)/python -m benchmarks

# On a machine with an NVIDIA GPU, beside cuDNN through PyTorch and through jax.experimental.rnn. In
# an environment of its own, because PyTorch's build for the CPU has no cuDNN.
bench-gpu: $(VENV)-gpu/.peers
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
		&& $(BIN)/python -m pip install --quiet --editable '.[peers]' \
		|| echo "No $(TORCH) or no cells written in it for this Python:" \
			"what is held against them will be skipped.")
	touch $@

# The guide converts weights from PyTorch and Keras, so it cannot do without them.
$(VENV)/.docs: $(VENV)/.test
	$(BIN)/python -c "import torch" 2>/dev/null || $(BIN)/python -m pip install --quiet torch
	$(BIN)/python -m pip install --quiet --editable '.[test,docs]'
	touch $@

$(VENV)-gpu/.peers: pyproject.toml
	$(PYTHON) -m venv $(VENV)-gpu
	$(VENV)-gpu/bin/python -m pip install --quiet --upgrade pip
	$(VENV)-gpu/bin/python -m pip install --quiet --editable '.[test,peers,cuda]'
	touch $@

$(AOT)/.aot: pyproject.toml
	$(PYTHON) -m venv $(AOT)
	$(AOT)/bin/python -m pip install --quiet --upgrade pip
	$(AOT)/bin/python -m pip install --quiet --editable '.[test]'
	$(AOT)/bin/python -m pip install --quiet --editable '.[test,aot]' \
		|| echo "No compilers for other platforms here: what they compile will be skipped."
	touch $@

# Not in editable form: nothing of the package is needed to build it.
$(VENV)/.build: $(VENV)/bin/python pyproject.toml
	$(BIN)/python -m pip install --quiet build
	touch $@

$(VENV)/.lint: $(VENV)/bin/python pyproject.toml
	$(BIN)/python -m pip install --quiet --editable '.[experiments,test,lint]'
	touch $@

clean:
	rm -rf $(VENV) .venv-* dist results docs/_build docs/reference docs/cells/maps
