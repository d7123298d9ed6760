"""The kernels compiled for an H100: sizes, precisions, marks, members and activations.

That they lower and fit is what can be seen without a card, and what they take of it.
"""

import jax.numpy as jnp
import platforms
import pytest
from flax import nnx

import rnn_jax as rj
from benchmarks.gpu_resources import KERNELS, SIZES, Case, cell_of, resources_of
from rnn_jax.activations import ACTIVATIONS
from rnn_jax.sequence.kernels.card import H100
from rnn_jax.sequence.kernels.products import PRECISIONS
from rnn_jax.sequence.kernels.tiles import SPARE_BYTES, joined_count, padded_units, shared_bytes

platforms.require()
as_a_user = platforms.as_a_user

# That Pallas is to drop its lowering through Triton one day says nothing of what it lowers to now.
pytestmark = pytest.mark.filterwarnings("ignore:The Pallas Triton backend:DeprecationWarning")

# Bytes of a thread that may go to memory. Only the widest states at the highest precision do.
FEW = 32


def compiled(case, most_spilled=0):
    """Compiles a case; what it takes is what was reckoned with."""
    tiles, reason = case.choice()
    assert tiles is not None, reason
    found = resources_of(case)
    which = "adjoint" if case.kernel == "adjoint" else "forward"
    blocks, units = joined_count(case.rules()[0]), padded_units(case.units)
    reckoned = shared_bytes(blocks, units, tiles, case.precision, which)
    assert found.shared <= reckoned + SPARE_BYTES <= H100.shared_memory
    assert found.spilled <= most_spilled


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize(("rows", "units"), SIZES)
@pytest.mark.parametrize("kind", ["LSTM", "GRU", "simple RNN"])
def test_sizes_that_the_prototype_was_timed_at(kind, rows, units, kernel):
    compiled(Case(cell_of(kind, units), kernel, rows, units))


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize(("kind", "units"), [("LSTM", 128), ("GRU", 256), ("simple RNN", 100)])
def test_precisions(kind, units, precision, kernel):
    compiled(Case(cell_of(kind, units), kernel, 32, units, precision=precision), FEW)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize(
    ("kind", "rows", "units"),
    [("LSTM", 1, 16), ("LSTM", 65, 48), ("GRU", 7, 200), ("GRU", 16, 512), ("simple RNN", 512, 65)],
)
def test_sequences_that_start_and_steps_that_are_skipped(kind, rows, units, kernel):
    compiled(Case(cell_of(kind, units), kernel, rows, units, marked=True))


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize(("kind", "units"), [("LSTM", 32), ("GRU", 128), ("simple RNN", 512)])
def test_members(kind, units, kernel):
    compiled(Case(cell_of(kind, units), kernel, 64, units, members=8), FEW)


@pytest.mark.parametrize("kernel", KERNELS)
def test_launches_one_after_another(kernel):
    case = Case(cell_of("LSTM", 512), kernel, 64, 512, members=4)
    tiles = case.choice().tiles
    assert tiles.split * case.members * -(-case.rows // tiles.rows) > tiles.at_once
    compiled(case)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("precision", ["tf32", "bf16"])
def test_a_thousand_units(precision, kernel):
    cell = rj.SimpleRNNCell(1, 1024, recurrent_kernel_init="zeros", rngs=nnx.Rngs(0))
    compiled(Case(cell, kernel, 16, 1024, precision=precision), FEW)


@pytest.mark.parametrize("kernel", ["forward", "adjoint"])
@pytest.mark.parametrize("precision", ["bf16x3", "tf32x3"])
def test_the_widest_lstm_at_the_higher_precisions(precision, kernel):
    compiled(Case(cell_of("LSTM", 512), kernel, 16, 512, precision=precision), FEW)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_activations(activation):
    cell = rj.SimpleRNNCell(1, 32, activation=activation, param_dtype=jnp.float32, rngs=nnx.Rngs(0))
    compiled(Case(cell, "forward", 16, 32))


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("options", [{"coupled": True}, {"forget_gate": False}], ids=str)
def test_other_lstms(options, kernel):
    compiled(Case(rj.LSTMCell(1, 64, **options, rngs=nnx.Rngs(0)), kernel, 16, 64))
