"""The public face: what is importable, and what importing costs."""

import functools
import subprocess
import sys

import pytest

import rnn_jax as rj

CONTRACT = [
    "GRUCell",
    "LSTMCell",
    "SequenceModel",
    "SimpleRNNCell",
    "activation_slope_range",
    "backprop_signal",
    "ensemble",
    "fit",
    "gradient_flow",
    "input_jacobian",
    "jacobian_log_bound",
    "jacobian_log_norms",
    "linearize",
    "state_jacobian",
    "tasks",
    "unroll",
    "weight_gradient_by_step",
]


def test_every_contracted_name_is_public_and_documented():
    for name in CONTRACT:
        assert name in rj.__all__
        assert getattr(rj, name).__doc__, f"{name} has no docstring"


def test_all_lists_exactly_what_is_there():
    public = {name for name in vars(rj) if not name.startswith("_")}
    modules = {
        "activations",
        "arrays",
        "checks",
        "gradients",
        "plotting",
        "sequence",
        "training",
    }
    assert public - modules == set(rj.__all__)


@pytest.mark.parametrize(
    "heavy",
    ["matplotlib", "rich", "tyro", "torch", "keras", "safetensors", "equinox", "orbax", "sklearn"],
)
def test_importing_the_package_brings_in_nothing_heavy(heavy):
    assert "rnn_jax" in brought_in()
    assert heavy not in brought_in()


@functools.cache
def brought_in():
    """What the package imports; what Flax imports by itself is Flax's affair."""
    code = (
        "import sys, jax, flax.nnx; before = set(sys.modules); import rnn_jax; "
        "print(*{name.split('.')[0] for name in set(sys.modules) - before})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.split()


def test_kernels_are_imported_where_a_program_needs_them():
    code = "import sys, rnn_jax; sys.exit('jax.experimental.pallas' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_importing_the_package_leaves_jax_configuration_alone():
    code = (
        "import jax; before = dict(jax.config.values); import rnn_jax; "
        "assert dict(jax.config.values) == before"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
