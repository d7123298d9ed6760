"""Initial weights: gate by gate, and why that matters."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import rnn_jax as rj
import zoo
from rnn_jax import initializers

MAKERS = {
    "simple": rj.SimpleRNNCell,
    "lstm": rj.LSTMCell,
    "lstm_coupled": lambda *sizes, **options: rj.LSTMCell(*sizes, coupled=True, **options),
    "lstm_1997": lambda *sizes, **options: rj.LSTMCell(*sizes, forget_gate=False, **options),
    "gru_after": rj.GRUCell,
    "gru_before": lambda *sizes, **options: rj.GRUCell(*sizes, reset_after=False, **options),
}


def gate_blocks(kernel, gates):
    return np.split(np.asarray(kernel), gates, axis=1)


@pytest.mark.parametrize("name", MAKERS)
def test_every_gate_has_an_orthogonal_recurrent_block_of_its_own(name):
    H = 16
    cell = MAKERS[name](3, H, rngs=nnx.Rngs(0))
    blocks = gate_blocks(cell.recurrent_kernel[...], len(cell.blocks))
    for block in blocks:
        np.testing.assert_allclose(block.T @ block, np.eye(H), atol=1e-13)
    for index, block in enumerate(blocks):
        for other in blocks[:index]:
            assert np.abs(block - other).max() > 0.1


@pytest.mark.parametrize("make", [nnx.OptimizedLSTMCell, nnx.GRUCell])
def test_an_orthogonal_initialiser_over_the_whole_fused_block_leaves_no_gate_orthogonal(make):
    # What ours avoid: the fused (H, G·H) block has orthonormal rows, so that each H×H gate is a
    # piece of an orthogonal matrix, with singular values spread down to almost 0.
    H = 64
    fused = np.asarray(
        make(3, H, param_dtype=jnp.float64, rngs=nnx.Rngs(0)).dense_h.kernel[...], np.float64
    )
    np.testing.assert_allclose(fused @ fused.T, np.eye(H), atol=1e-5)
    for block in gate_blocks(fused, fused.shape[1] // H):
        singular = np.linalg.svd(block, compute_uv=False)
        assert singular[-1] < 0.05
        assert 0.8 < singular[0] < 1.0
        assert np.abs(block.T @ block - np.eye(H)).max() > 0.3
    ours = {nnx.OptimizedLSTMCell: rj.LSTMCell, nnx.GRUCell: rj.GRUCell}[make]
    kernel = ours(3, H, rngs=nnx.Rngs(0)).recurrent_kernel[...]
    for block in gate_blocks(kernel, kernel.shape[1] // H):
        np.testing.assert_allclose(np.linalg.svd(block, compute_uv=False), 1.0, rtol=1e-12)


@pytest.mark.parametrize(
    ("init", "variance"),
    [("lecun_normal", 1 / 100), ("he_normal", 2 / 100), ("glorot_normal", 2 / (100 + 120))],
)
def test_the_input_kernel_has_the_variance_of_one_gate(init, variance):
    # Over the fused block Glorot's fan-out would be G·H, and the variance 2 / (100 + 480).
    cell = rj.LSTMCell(100, 120, kernel_init=init, rngs=nnx.Rngs(0))
    for block in gate_blocks(cell.kernel[...], 4):
        # 12 000 draws: the relative error of the variance is about sqrt(2 / 12000) = 1.3 %.
        assert abs(block.var() / variance - 1) < 0.06
        assert abs(block.mean()) < 5 * np.sqrt(variance / block.size)


@pytest.mark.parametrize("forget_bias", [1.0, 0.0, -2.5])
@pytest.mark.parametrize("coupled", [False, True])
def test_the_forget_bias_stands_in_the_forget_block_alone(forget_bias, coupled):
    cell = rj.LSTMCell(2, 3, forget_bias=forget_bias, coupled=coupled, rngs=nnx.Rngs(0))
    bias = dict(zip(cell.blocks, np.split(cell.bias[...], len(cell.blocks)), strict=True))
    np.testing.assert_array_equal(bias.pop("forget"), np.full(3, forget_bias))
    for values in bias.values():
        np.testing.assert_array_equal(values, np.zeros(3))


def test_the_forget_bias_is_added_to_what_the_initialiser_gives():
    cell = rj.LSTMCell(2, 3, bias_init="ones", forget_bias=2.0, rngs=nnx.Rngs(0))
    np.testing.assert_array_equal(cell.bias[...], [1] * 3 + [3] * 3 + [1] * 6)


def test_the_default_forget_gate_is_open_and_the_others_are_half_open():
    cell = rj.LSTMCell(2, 3, rngs=nnx.Rngs(0))
    gates = cell.gates(cell.initialize_carry((2,)), jnp.zeros(2))
    np.testing.assert_allclose(gates["forget"], 1 / (1 + np.exp(-1.0)), rtol=1e-12)
    np.testing.assert_allclose(gates["input"], 0.5, rtol=1e-12)
    np.testing.assert_allclose(gates["output"], 0.5, rtol=1e-12)


@pytest.mark.parametrize("name", MAKERS)
def test_equal_seeds_give_equal_weights_and_different_seeds_different_ones(name):
    one, same, other = (
        zoo.weights_of(MAKERS[name](3, 4, rngs=nnx.Rngs(seed))) for seed in (5, 5, 6)
    )
    for weight in one:
        np.testing.assert_array_equal(one[weight], same[weight])
    assert np.abs(one["kernel"] - other["kernel"]).min() > 0
    assert np.abs(one["recurrent_kernel"] - other["recurrent_kernel"]).max() > 0.1


def test_kernels_of_equal_shape_are_drawn_from_different_keys():
    cell = rj.SimpleRNNCell(4, 4, kernel_init="orthogonal", rngs=nnx.Rngs(0))
    assert np.abs(cell.kernel[...] - cell.recurrent_kernel[...]).max() > 0.1


def test_one_source_of_keys_gives_two_cells_different_weights():
    rngs = nnx.Rngs(0)
    one, other = (rj.LSTMCell(3, 4, rngs=rngs) for _ in range(2))
    assert np.abs(one.kernel[...] - other.kernel[...]).min() > 0


def test_identity_weights_make_a_relu_cell_remember():
    # The IRNN of Le, Jaitly and Hinton: with no input, a state that is not negative stays.
    cell = rj.SimpleRNNCell(
        3, 4, activation="relu", recurrent_kernel_init="identity", rngs=nnx.Rngs(0)
    )
    h = jnp.asarray([0.0, 0.5, 1.0, 7.0])
    np.testing.assert_array_equal(cell(h, jnp.zeros(3))[0], h)


@pytest.mark.parametrize("scale", [0.5, 1.0, 3.0])
def test_a_scaled_orthogonal_matrix_has_that_singular_value_alone(scale):
    matrix = initializers.orthogonal(scale)(jax.random.key(0), (6, 6), jnp.float64)
    np.testing.assert_allclose(np.linalg.svd(matrix, compute_uv=False), scale, rtol=1e-12)
    matrix = initializers.identity(scale)(jax.random.key(0), (6, 6), jnp.float64)
    np.testing.assert_array_equal(matrix, scale * np.eye(6))


def test_an_initialiser_of_your_own_is_called_once_for_each_gate():
    calls = []

    def init(key, shape, dtype):
        calls.append((tuple(np.asarray(jax.random.key_data(key)).tolist()), shape, dtype))
        return np.full(shape, float(len(calls)))

    cell = rj.GRUCell(2, 3, recurrent_kernel_init=init, rngs=nnx.Rngs(0))
    assert [shape for _, shape, _ in calls] == [(3, 3)] * 3
    assert len({key for key, _, _ in calls}) == 3
    assert {np.dtype(dtype) for _, _, dtype in calls} == {np.dtype("float64")}
    expected = np.repeat([[1.0, 2.0, 3.0]], 3, axis=0).repeat(3, axis=1)
    np.testing.assert_array_equal(cell.recurrent_kernel[...], expected)


def test_numpy_values_from_an_initialiser_become_arrays_of_the_parameter_type():
    cell = rj.LSTMCell(
        2,
        3,
        bias_init=lambda key, shape, dtype: np.arange(12.0),
        param_dtype=jnp.float32,
        rngs=nnx.Rngs(0),
    )
    assert cell.bias[...].dtype == jnp.float32
    np.testing.assert_array_equal(cell.bias[...], [0, 1, 2, 4, 5, 6, 6, 7, 8, 9, 10, 11])


def test_a_type_that_jax_would_silently_narrow_is_refused():
    with (
        jax.enable_x64(False),
        pytest.raises(ValueError, match="float64, which would become float32"),
    ):
        rj.GRUCell(2, 3, param_dtype=jnp.float64, rngs=nnx.Rngs(0))
