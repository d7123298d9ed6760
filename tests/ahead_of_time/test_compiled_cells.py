"""`unroll` with every cell of the package, compiled for devices that are not here."""

import jax
import jax.numpy as jnp
import platforms
import pytest
from calls_over_time import FEATURES, XS, H, gradient, run
from flax import nnx

import rnn_jax as rj
import zoo
from rnn_jax.cells.structure import sees_output_alone

platforms.require()
as_a_user = platforms.as_a_user

# Of the long-memory family one of each kind: with weights that see nothing, or are made of others,
# and whose weights meet what kernels do not have.
FAMILY = {
    "leaky": rj.LeakyIntegratorCell,
    "exprnn": rj.ExpRNNCell,
    "slstm": rj.SLSTMCell,
    "cornn": rj.CoRNNCell,
    "lem": rj.LEMCell,
}

KERNEL = "__gpu$xla.gpu.triton"


def outputs_and_gradient(cell, xs):
    return run(cell, xs), gradient(cell, xs)


@pytest.mark.parametrize("platform", platforms.PLATFORMS)
@pytest.mark.parametrize("name", [*zoo.CELLS, *FAMILY])
def test_a_cell_compiles(name, platform):
    if name in FAMILY:
        cell = FAMILY[name](FEATURES, H, rngs=nnx.Rngs(0))
    else:
        cell = zoo.CELLS[name](FEATURES, H, 0)
    cell = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), cell)
    text = platforms.compiled_for(platform, outputs_and_gradient, cell, XS)
    form = cell.fused_form()
    by_kernel = platform == "cuda" and form is not None and sees_output_alone(form.mathematics)
    assert (KERNEL in text) == by_kernel
