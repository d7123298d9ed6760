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

CELLS_OF_THE_ZOO = ("SimpleRNNCell", "LSTMCell", "GRUCell")
# The long-memory family, every class once.
FAMILY = {
    name: getattr(rj, name)
    for name in rj.cells.__all__
    if name.endswith("Cell") and name not in ("Cell", "RNNCell", *CELLS_OF_THE_ZOO)
}

KERNEL = "__gpu$xla.gpu.triton"


def in_single(leaf):
    return leaf.astype(jnp.float32) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf


def outputs_and_gradient(cell, xs):
    return run(cell, xs), gradient(cell, xs)


@pytest.mark.parametrize("platform", platforms.PLATFORMS)
@pytest.mark.parametrize("name", [*zoo.CELLS, *FAMILY])
def test_a_cell_compiles(name, platform):
    if name in FAMILY:
        cell = FAMILY[name](FEATURES, H, rngs=nnx.Rngs(0))
    else:
        cell = zoo.CELLS[name](FEATURES, H, 0)
    cell = jax.tree.map(in_single, cell)
    text = platforms.compiled_for(platform, outputs_and_gradient, cell, XS)
    form = cell.fused_form()
    by_kernel = platform == "cuda" and form is not None and sees_output_alone(form.mathematics)
    assert (KERNEL in text) == by_kernel
