"""Where a Jacobian comes from: parts of the carry, slopes and weights, the path of the gates."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from test_reference import FAMILIES, FEATURES, XS, H, T, network

import oracles
import rnn_jax as rj
import zoo
from refusing import refused

CLOSE = {"rtol": 1e-10, "atol": 1e-12}
# Slopes of every activation are those counted by hand below. Of the gated cells, each whose path
# or gates are of a form of their own.
SIMPLE = ("simple_sigmoid", "simple_relu")
LSTMS = ("lstm", "lstm_coupled_peephole", "lstm_1997", "lstm_projection")
GATED = (*LSTMS, "gru_reset_after", "gru_reset_before")


@functools.cache
def attributed(name):
    net = network(name)
    return rj.attribution(net.cell, XS, net.carry)


@functools.cache
def reference(name):
    """Carries (T + 1, S) and one-step Jacobians (T, S, S): hand-derived for our cells."""
    net = network(name)
    if name in zoo.FOREIGN:
        lin = rj.linearize(net.cell, XS, net.carry)
        return np.asarray(lin.carries), np.asarray(lin.state_jacobians)
    twin = zoo.oracle(net.cell)
    carries, _ = oracles.run(twin.step, XS, net.state)
    return carries, oracles.one_step_jacobians(twin.jacobian, carries, XS)[0]


def pre_activations(name):
    weights, (carries, _) = zoo.weights_of(network(name).cell), reference(name)
    z = XS @ weights["kernel"] + carries[:-1] @ weights["recurrent_kernel"]
    return z + weights["bias"]


def path_factors(name):
    """(T, H): what the memory path is multiplied by at each step."""
    cell, (carries, _) = network(name).cell, reference(name)
    weights, form = zoo.weights_of(cell), zoo._kind_and_form(cell)[1]
    if name in LSTMS:
        return np.stack(
            [oracles._LSTM(weights, c, x, **form).f for c, x in zip(carries[:-1], XS, strict=True)]
        )
    return np.stack(
        [oracles._GRU(weights, h, x, **form).z for h, x in zip(carries[:-1], XS, strict=True)]
    )


def memory_path(name):
    """The one path of a gated cell, and the part of the carry that it runs in."""
    (part, path), *others = attributed(name).paths.items()
    assert not others
    assert part == ("c" if name in LSTMS else "h")
    return path


def log_norm(matrices):
    with np.errstate(divide="ignore"):
        return np.log(np.linalg.norm(matrices, axis=(-2, -1)))


def part_slices(name):
    """{name of the part: where it lies in the flat carry}, ours by their names, others by path."""
    ours = ["c", "h"] if name in LSTMS else ["h"]
    names = {"nnx_lstm": ["0", "1"], "linen_gru": ["carry"]}.get(name, ours)
    names = {"dict_readout": ["fast", "slow"], "henon": ["u", "v"]}.get(name, names)
    size = reference(name)[0].shape[1] // len(names)
    return {key: slice(k * size, (k + 1) * size) for k, key in enumerate(names)}


@pytest.mark.parametrize("name", [*SIMPLE, *GATED, *FAMILIES[3:]])
def test_blocks_are_those_of_the_one_step_jacobian_and_reassemble_it(name):
    got, (_, A), parts = attributed(name), reference(name), part_slices(name)
    np.testing.assert_allclose(np.asarray(got.step_log_norms), log_norm(A), **CLOSE)
    assert set(got.block_log_norms) == {f"{to}_{of}" for to in parts for of in parts}
    for to, rows in parts.items():
        for of, columns in parts.items():
            expected = log_norm(A[:, rows, columns])
            np.testing.assert_allclose(
                np.asarray(got.block_log_norms[f"{to}_{of}"]), expected, **CLOSE
            )
    squares = sum(np.exp(2 * np.asarray(block)) for block in got.block_log_norms.values())
    np.testing.assert_allclose(np.log(squares) / 2, np.asarray(got.step_log_norms), **CLOSE)


def test_blocks_of_a_stack_are_named_by_layer():
    cells = [zoo.CELLS["lstm"](FEATURES, 3, 1), zoo.CELLS["gru_reset_after"](3, 2, 2)]
    got = rj.attribution(rj.StackedCell(cells), XS)
    A = np.asarray(rj.linearize(rj.StackedCell(cells), XS).state_jacobians)
    parts = {"0.c": slice(0, 3), "0.h": slice(3, 6), "1.h": slice(6, 8)}
    assert set(got.block_log_norms) == {f"{to}_{of}" for to in parts for of in parts}
    for to, rows in parts.items():
        for of, columns in parts.items():
            block = np.asarray(got.block_log_norms[f"{to}_{of}"])
            np.testing.assert_allclose(block, log_norm(A[:, rows, columns]), **CLOSE)
    for below in ("0.c", "0.h"):  # what lies above feeds nothing below
        assert np.isneginf(np.asarray(got.block_log_norms[f"{below}_1.h"])).all()
    np.testing.assert_allclose(np.asarray(got.step_log_norms), log_norm(A), **CLOSE)
    assert set(got.paths) == {"0.c", "1.h"}
    below = [f"0.{gate}" for gate in ("input", "forget", "output")]
    assert set(got.gates) == {*below, "1.reset", "1.update"}
    whole = functools.reduce(lambda product, step: step @ product, A, np.eye(8))
    for key, gate in (("0.c", "0.forget"), ("1.h", "1.update")):
        path, own = got.paths[key], whole[parts[key], parts[key]]
        np.testing.assert_allclose(path.factors, got.gates[gate], rtol=1e-12)
        np.testing.assert_allclose(np.asarray(path.total_log_norms[-1]), log_norm(own), **CLOSE)
        rest = own - np.diag(np.prod(np.asarray(got.gates[gate]), axis=0))
        np.testing.assert_allclose(np.asarray(path.rest_log_norms[-1]), log_norm(rest), **CLOSE)


@pytest.mark.parametrize("name", SIMPLE)
def test_slopes_and_weights_split_the_norm_of_a_step(name):
    got, weights = attributed(name), zoo.weights_of(network(name).cell)
    activation = zoo._kind_and_form(network(name).cell)[1]["activation"]
    slopes = oracles.ACTIVATIONS[activation][1](pre_activations(name))
    np.testing.assert_allclose(np.asarray(got.slopes), slopes, **CLOSE)
    W = weights["recurrent_kernel"]
    recurrent = np.log(np.linalg.norm(W))
    by_column = (W**2).sum(axis=0) / (W**2).sum()
    with np.errstate(divide="ignore"):
        slope = np.log(slopes**2 @ by_column) / 2
    np.testing.assert_allclose(np.asarray(got.recurrent_log), recurrent, **CLOSE)
    np.testing.assert_allclose(np.asarray(got.slope_log), slope, **CLOSE)
    whole = np.asarray(got.slope_log) + np.asarray(got.recurrent_log)
    np.testing.assert_allclose(whole, np.asarray(got.step_log_norms), **CLOSE)


@pytest.mark.parametrize("name", [*GATED, *FAMILIES[3:]])
def test_only_a_simple_cell_has_slopes(name):
    got = attributed(name)
    assert (got.slopes, got.slope_log, got.recurrent_log) == (None, None, None)


@pytest.mark.parametrize("name", GATED)
def test_gates_and_path_factors_are_those_of_the_published_equations(name):
    got, net, (carries, _) = attributed(name), network(name), reference(name)
    factors = path_factors(name)
    path = memory_path(name)
    np.testing.assert_allclose(np.asarray(path.factors), factors, **CLOSE)
    kept = np.log(np.cumprod(factors, axis=0))
    np.testing.assert_allclose(np.asarray(path.log_products), kept, **CLOSE)
    before = jnp.asarray(carries[:-1])
    before = tuple(jnp.split(before, 2, axis=1)) if name in LSTMS else before
    expected = net.cell.gates(before, jnp.asarray(XS))
    assert got.gates.keys() == expected.keys()
    for gate, values in expected.items():
        np.testing.assert_allclose(np.asarray(got.gates[gate]), np.asarray(values), **CLOSE)
    if name == "lstm_1997":
        assert (factors == 1).all()
        assert "forget" not in got.gates
    if "coupled" in name:
        np.testing.assert_allclose(factors, 1 - np.asarray(got.gates["input"]), **CLOSE)


@pytest.mark.parametrize("name", GATED)
def test_the_path_and_the_rest_make_up_the_memory(name):
    path, (_, A) = memory_path(name), reference(name)
    kept, product, expected = np.ones(H), np.eye(A.shape[1]), []
    for step, factor in zip(A, path_factors(name), strict=True):
        kept, product = factor * kept, step @ product
        memory = product[:H, :H]  # of c, the first part of an LSTM's carry, or of a GRU's h
        expected.append(
            [log_norm(memory), np.log(np.linalg.norm(kept)), log_norm(memory - np.diag(kept))]
        )
    fields = (path.total_log_norms, path.path_log_norms, path.rest_log_norms)
    for field, values in zip(fields, np.transpose(expected), strict=True):
        np.testing.assert_allclose(np.asarray(field), values, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("name", ["simple_relu", *FAMILIES[3:]])
def test_a_cell_without_gates_has_no_memory_path(name):
    assert attributed(name).gates == {}
    assert attributed(name).paths == {}


LONG = 400
MADE = {rj.LSTMCell: "lstm", rj.GRUCell: "gru_reset_after"}  # for a carry away from zero


def without_recurrence(make, dtype=jnp.float64, **options):
    return make(
        FEATURES, H, recurrent_kernel_init="zeros", param_dtype=dtype, rngs=nnx.Rngs(0), **options
    )


class LeakyCell:
    """h' = λ h + (1 − λ) tanh(h W + x): a cell no one here wrote, that names its own path."""

    leak = np.asarray([0.9, 0.5])
    weights = np.asarray([[0.3, -0.8], [0.7, 0.4]])

    def __call__(self, carry, x):
        new = jnp.tanh(carry @ self.weights + x)
        carry = self.leak * carry + (1 - self.leak) * new
        return carry, carry

    def initialize_carry(self, input_shape):
        return jnp.zeros(input_shape)

    def memory_path(self, carry, x):
        return {"h": jnp.asarray(self.leak)}


def test_any_cell_may_name_its_path():
    got = rj.attribution(LeakyCell(), XS)
    (path,) = got.paths.values()
    lag = np.arange(1, T + 1)[:, None]
    np.testing.assert_allclose(np.asarray(path.log_products), lag * np.log(LeakyCell.leak))
    A = np.asarray(rj.linearize(LeakyCell(), XS).state_jacobians)
    whole = functools.reduce(lambda product, step: step @ product, A, np.eye(2))
    rest = log_norm(whole - np.diag(LeakyCell.leak**T))
    np.testing.assert_allclose(np.asarray(path.rest_log_norms[-1]), rest, **CLOSE)
    np.testing.assert_allclose(np.asarray(path.total_log_norms[-1]), log_norm(whole), **CLOSE)
    assert got.slopes is None


def shares(activation, z, width):
    """(saturated, dead) of a cell whose pre-activations are `z`, one row for each step."""
    cell = rj.SimpleRNNCell(
        width, width, activation=activation, recurrent_kernel_init="zeros", rngs=nnx.Rngs(0)
    )
    cell.kernel[...] = jnp.eye(width)
    got = rj.attribution(cell, np.asarray(z))
    return np.asarray(got.saturated_share()), np.asarray(got.dead_share())


@pytest.mark.parametrize(
    ("activation", "z", "saturated", "dead"),
    [
        # Slope 0 up to z = 0, then 1.
        ("relu", [[-400, -2.5, 0, 1.5], [0.5, -1, 9, 1e-9]], [3 / 4, 1 / 4], [3 / 4, 1 / 4]),
        # Below a tenth of sup|slope| = 1 where |z| > artanh(√0.9) = 1.8184; zero at 400.
        ("tanh", [[-400, 1.81, 1.83, 0], [1.5, -1.8, -1.82, 15]], [2 / 4, 2 / 4], [1 / 4, 0]),
        # sup|slope| = 1/4, and σ(z) σ(−z) = 1/40 where |z| = 2 artanh(√0.9) = 3.637.
        ("sigmoid", [[-3.63, 3.63, 3.65, 0], [-3.65, 15, 30, 1]], [1 / 4, 3 / 4], [0, 0]),
        # A slope of 0.01 is below a tenth, and yet not dead.
        ("leaky_relu", [[-400, -1, 1, 2], [1, 2, 3, 4]], [2 / 4, 0], [0, 0]),
        ("hard_tanh", [[-3, 0.5, -0.5, 2], [0, 0.1, 0.2, 0.3]], [2 / 4, 0], [2 / 4, 0]),
        ("identity", [[-400, 0, 1, 400], [1, 2, 3, 4]], [0, 0], [0, 0]),
    ],
)
def test_shares_of_saturated_and_dead_units_are_those_counted_by_hand(
    activation, z, saturated, dead
):
    got = shares(activation, np.asarray(z, np.float64), 4)
    np.testing.assert_array_equal(got, (saturated, dead))


def test_a_slope_range_of_its_own_decides_what_is_saturated():
    z = np.asarray([[0.0, 1.8, 1.83, 5.0]])
    doubled = rj.Activation("doubled", lambda x: 2 * jnp.tanh(x), (0.0, 2.0))
    falling = rj.Activation("falling", lambda x: -jnp.tanh(x), (-1.0, 0.0))
    for activation in (doubled, falling):
        np.testing.assert_array_equal(shares(activation, z, 4), [[0.5], [0.0]])


def test_gate_statistics_are_counted_over_steps_and_units():
    # σ(±3) lies outside (0.1, 0.9), σ(±2) inside: one gate for each kind of unit.
    cell = without_recurrence(rj.LSTMCell, kernel_init="zeros")
    biases = {"input": [-3.0, -2.0, 0.0], "forget": [3.0, 3.0, 2.0], "output": [-3.0, 0.0, 3.0]}
    cell.bias[...] = jnp.asarray(
        [*biases["input"], *biases["forget"], *3 * [0.0], *biases["output"]]
    )
    got = rj.attribution(cell, XS).gate_statistics()
    expected = {"input": (1 / 3, 0), "forget": (0, 2 / 3), "output": (1 / 3, 1 / 3)}
    assert got.keys() == expected.keys()
    for gate, (shut, wide) in expected.items():
        mean = oracles.sigmoid(np.asarray(biases[gate])).mean()
        values = [got[gate][what] for what in ("mean", "shut", "open")]
        np.testing.assert_allclose(values, (mean, shut, wide), rtol=1e-12)


def test_an_activation_of_unknown_range_has_slopes_but_no_saturation():
    cell = rj.SimpleRNNCell(FEATURES, H, activation=lambda x: x**3, rngs=nnx.Rngs(0))
    got = rj.attribution(cell, XS, 0.3 * jnp.ones(H))
    assert got.slopes.shape == (T, H)
    whole = np.asarray(got.slope_log) + np.asarray(got.recurrent_log)
    np.testing.assert_allclose(whole, np.asarray(got.step_log_norms), **CLOSE)
    refused(got.saturated_share, ValueError, "slope", "Activation")


def test_dead_units_make_the_step_minus_infinity():
    cell = rj.SimpleRNNCell(FEATURES, H, activation="relu", rngs=nnx.Rngs(0))
    cell.kernel[...] = -jnp.ones((FEATURES, H))
    got = rj.attribution(cell, np.abs(XS))
    for logs in (got.step_log_norms, got.slope_log, got.block_log_norms["h_h"]):
        assert np.isneginf(np.asarray(logs)).all()
    np.testing.assert_allclose(np.asarray(got.recurrent_log), np.log(H) / 2)  # orthogonal
    assert (np.asarray(got.dead_share()) == 1).all()


@pytest.mark.parametrize(("make", "dtype"), [(rj.LSTMCell, np.float32), (rj.GRUCell, np.float64)])
def test_without_recurrent_weights_the_path_is_the_whole(make, dtype):
    cell = without_recurrence(make, dtype)
    xs = np.random.default_rng(1).normal(size=(LONG, FEATURES)).astype(dtype)
    got = rj.attribution(cell, xs)
    (path,) = got.paths.values()
    assert path.log_products.dtype == dtype
    assert np.isneginf(np.asarray(path.rest_log_norms)).all()
    np.testing.assert_allclose(
        np.asarray(path.total_log_norms), np.asarray(path.path_log_norms), rtol=1e-5
    )
    # The gate sees the input alone.
    weights = zoo.weights_of(cell)
    z = xs.astype(np.float64) @ weights["kernel"] + weights["bias"]
    logs = np.cumsum(np.log(oracles.sigmoid(z[:, H : 2 * H])), axis=0)
    np.testing.assert_allclose(np.asarray(path.log_products), logs, rtol=1e-5)
    whole = np.logaddexp.reduce(2 * logs, axis=1) / 2
    np.testing.assert_allclose(np.asarray(path.path_log_norms), whole, rtol=1e-5)
    assert whole[-1] < np.log(np.finfo(np.float32).tiny)
    if make is rj.LSTMCell:
        assert np.isneginf(np.asarray(got.block_log_norms["c_h"])).all()
        assert np.isfinite(np.asarray(got.block_log_norms["h_c"])).all()


@pytest.mark.parametrize(("bias", "after_100"), [(0.0, 7.9e-31), (1.0, 2.5e-14), (5.0, 0.51)])
def test_what_a_forget_bias_keeps_over_a_hundred_steps(bias, after_100):
    cell = without_recurrence(rj.LSTMCell, forget_bias=bias, kernel_init="zeros")
    path = rj.attribution(cell, np.zeros((100, FEATURES))).paths["c"]
    kept = np.exp(np.asarray(path.log_products[-1]))
    np.testing.assert_allclose(kept, after_100, rtol=0.01)
    np.testing.assert_allclose(kept, (1 / (1 + np.exp(-bias))) ** 100, rtol=1e-11)
    memory = np.exp(np.asarray(path.total_log_norms[-1]))
    np.testing.assert_allclose(memory, kept[0] * np.sqrt(H), rtol=1e-11)
    assert np.isneginf(np.asarray(path.rest_log_norms)).all()


@pytest.mark.parametrize(
    ("make", "first", "sizes"),
    [(rj.LSTMCell, 1, (1e-7, 1e-21)), (rj.GRUCell, 0, (1e-6, 1e-9))],
)
def test_a_rest_far_below_the_path_is_right(make, first, sizes):
    # To first order the rest grows with the recurrent weights, however small beside the path.
    # An LSTM has none after one step, whose c sees h_0 and not c_0. In a GRU path and rest meet in
    # the diagonal of A_t, whose rounding a rest cannot get below.
    rests = []
    for size in sizes:
        cell = make(FEATURES, H, rngs=nnx.Rngs(0))
        cell.recurrent_kernel[...] = size * cell.recurrent_kernel[...]
        (path,) = rj.attribution(cell, XS, network(MADE[make]).carry).paths.values()
        rests.append(np.asarray(path.rest_log_norms))
    assert np.isneginf(rests[1][:first]).all()
    ratios = rests[0][first:] - rests[1][first:]
    np.testing.assert_allclose(ratios, np.log(sizes[0] / sizes[1]), rtol=1e-6)


def test_the_rest_far_below_the_smallest_float():
    # Both parts vanish; the float32 measure is the float64 one all the way.
    cell = rj.LSTMCell(FEATURES, H, forget_bias=-1.0, param_dtype=jnp.float32, rngs=nnx.Rngs(0))
    xs = np.random.default_rng(2).normal(size=(LONG, FEATURES)).astype(np.float32)
    single = rj.attribution(cell, xs).paths["c"]
    wide = jax.tree.map(lambda a: a.astype(jnp.float64), cell)
    double = rj.attribution(wide, xs.astype(np.float64), (np.zeros(H), np.zeros(H))).paths["c"]
    for low, high in zip(jax.tree.leaves(single), jax.tree.leaves(double), strict=True):
        assert (low.dtype, high.dtype) == (np.float32, np.float64)
        np.testing.assert_allclose(np.asarray(low), np.asarray(high), rtol=2e-4, atol=0.05)
    for field in ("log_products", "path_log_norms", "rest_log_norms", "total_log_norms"):
        last = np.asarray(getattr(double, field)[-1])
        assert (last < 2 * np.log(np.finfo(np.float32).tiny)).all()


def test_a_gate_that_shuts_ends_the_path_exactly():
    cell = without_recurrence(rj.LSTMCell, forget_bias=-1e4, kernel_init="zeros")
    path = rj.attribution(cell, XS).paths["c"]
    for field in ("log_products", "path_log_norms", "rest_log_norms", "total_log_norms"):
        assert np.isneginf(np.asarray(getattr(path, field))).all()


def test_vmap_and_jit_and_the_default_carry():
    cell = network("lstm_coupled_peephole").cell
    batch = np.random.default_rng(3).normal(size=(2, T, FEATURES))
    mapped = jax.jit(jax.vmap(rj.attribution, (None, 0)))(cell, batch)
    alone = rj.attribution(cell, batch[1], tuple(np.zeros(H) for _ in "ch"))
    for many, one in zip(jax.tree.leaves(mapped), jax.tree.leaves(alone), strict=True):
        np.testing.assert_allclose(np.asarray(many)[1], np.asarray(one), **CLOSE)


def test_what_is_refused():
    cell, call = network("simple_relu").cell, rj.attribution
    refused(lambda: call(cell, XS[None]), ValueError, r"\(T, I\)", r"\(1, 5, 2\)", r"vmap")
    refused(lambda: call(cell, XS[:0]), ValueError, "at least one", r"\(0, 2\)")
    refused(lambda: call(cell, XS.astype(complex)), TypeError, "real numbers", "complex128")
    refused(lambda: call(cell, XS[:, :1]), ValueError, "in_features=2", "got 1")
    refused(lambda: call(cell, XS, np.zeros(H + 1)), ValueError, r"\[4\]", "Leave carry out")
    refused(lambda: call("lstm", XS), TypeError, "callable", "str")
    for wrong in (0.0, 1.5):
        share = functools.partial(attributed("simple_relu").saturated_share, threshold=wrong)
        refused(share, ValueError, "threshold", r"\(0, 1\]", str(wrong))
    refused(attributed("lstm").saturated_share, (TypeError, ValueError), "SimpleRNNCell|slopes")
    refused(attributed("lstm").dead_share, (TypeError, ValueError), "SimpleRNNCell|slopes")
