# Each target makes the virtual environment it needs. PYTHON picks the interpreter (3.11 or later).
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
# The tests and benchmarks beside PyTorch, and beside cells that others wrote in it, need a build for
# the CPU: a plain "torch" may bring gigabytes of CUDA. Where pip finds none, they are left out and
# say so; TORCH=torch takes what there is, TORCH= none.
TORCH  ?= torch==2.13.0+cpu
# Apart from the default one, because JAX looks for the devices of all plugins that it finds
# installed.
AOT    ?= $(VENV)-aot
# For `make test-part` and `make test-aot`: the first test and every so many after it.
EVERY  ?= 120
AOT_EVERY ?= 1

# Small LAPACK calls on several threads wait for one another on a machine that is shared.
export OPENBLAS_NUM_THREADS ?= 1
# Of what is installed, most is never imported, so pip compiles none of it: that is what "no" says.
export PIP_NO_COMPILE ?= no

.PHONY: demo published docs docs-checks docs-pages test test-part test-aot test-gpu lint wheel bench bench-gpu clean

demo: $(VENV)/.demo
	$(BIN)/python experiments/vanishing_gradient.py

# Checks that need no pages; beside them the pages, as Sphinx leaves a core idle now and then: every
# notebook is run, and any warning is an error. Then each page is opened in Chromium or Chrome; where
# neither is installed, this is left out and says so, or fails with GUIDE_BROWSER=required.
docs: $(VENV)/.docs
	$(MAKE) --no-print-directory --jobs 2 docs-checks docs-pages
	$(BIN)/python -m pytest --numprocesses auto --dist worksteal docs/browser
	@echo "The guide: docs/_build/html/index.html"

docs-checks: $(VENV)/.docs
	$(BIN)/python -m pytest --numprocesses auto --dist worksteal docs/checks

docs-pages: $(VENV)/.docs
	$(BIN)/sphinx-build --fail-on-warning --keep-going --nitpicky --jobs auto --quiet docs docs/_build/html

test: $(VENV)/.test
	$(BIN)/python -m pytest --numprocesses auto --dist worksteal

# What test-aot runs is left to it: an environment may serve both.
test-part: $(VENV)/.test
	$(BIN)/python -m pytest --numprocesses auto --dist worksteal --every $(EVERY) \
		--ignore tests/ahead_of_time

# Compiles for a TPU and for an NVIDIA GPU, neither of which need be here.
test-aot: $(AOT)/.aot
	JAX_PLATFORMS=cpu $(AOT)/bin/python -m pytest --numprocesses auto --dist worksteal \
		--every $(AOT_EVERY) tests/ahead_of_time

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

published: $(VENV)/.demo
	$(BIN)/python -m experiments.published

bench: $(VENV)/.test
	$(BIN)/python -m benchmarks

# On a machine with an NVIDIA GPU, beside cuDNN through PyTorch and through jax.experimental.rnn. In
# an environment of its own, because PyTorch's build for the CPU has no cuDNN.
bench-gpu: $(VENV)-gpu/.peers
	$(VENV)-gpu/bin/python -m benchmarks.gpu

# Any environment: $(VENV), $(AOT) and that with CUDA.
%/bin/python:
	$(PYTHON) -m venv $*
	$@ -m pip install --quiet --upgrade pip

$(VENV)/.demo: $(VENV)/bin/python pyproject.toml
	$(BIN)/python -m pip install --quiet --editable '.[experiments]'
	touch $@

# A comma would end an argument of a function of make.
comma := ,
install = $(BIN)/python -m pip install --quiet
# $(call with_peers,EXTRAS): pip finds all of it in one go, or what there is of it.
with_peers = $(if $(TORCH),$(install) '$(TORCH)' --editable '.[$(1)$(comma)peers]' \
		|| { echo "No $(TORCH) or no cells written in it for this Python:" \
			"what is held against them will be skipped." \
		&& { $(install) '$(TORCH)' --editable '.[$(1)]' || $(only); }; },$(only))
only = $(install) --editable '.[$(1)]'
# The guide converts weights from PyTorch and Keras, so it cannot do without them.
any_torch = $(BIN)/python -c "import torch" 2>/dev/null || $(install) torch

$(VENV)/.test: $(VENV)/bin/python pyproject.toml
	$(call with_peers,test)
	touch $@

$(VENV)/.docs: $(VENV)/bin/python pyproject.toml
	$(call with_peers,test$(comma)docs)
	$(any_torch)
	touch $(VENV)/.test $@

# For .ci/run: what lint, wheel, test and docs need.
$(VENV)/.all: $(VENV)/bin/python pyproject.toml
	$(call with_peers,experiments$(comma)test$(comma)lint$(comma)build$(comma)docs)
	$(any_torch)
	touch $(VENV)/.demo $(VENV)/.test $(VENV)/.lint $(VENV)/.build $(VENV)/.docs $@

$(VENV)-gpu/.peers: $(VENV)-gpu/bin/python pyproject.toml
	$(VENV)-gpu/bin/python -m pip install --quiet --editable '.[test,peers,cuda]'
	touch $@

$(AOT)/.aot: $(AOT)/bin/python pyproject.toml
	$(AOT)/bin/python -m pip install --quiet --editable '.[test,aot]' \
		|| { $(AOT)/bin/python -m pip install --quiet --editable '.[test]' \
		&& echo "No compilers for other platforms here: what they compile will be skipped."; }
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
