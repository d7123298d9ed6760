"""Our cells against NumPy oracles written from the papers, and as pytrees."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import oracles
import rnn_jax as rj
import zoo
from rnn_jax.activations import ACTIVATIONS
from sequence.running import one_step

IN, H, B = 3, 4, 5
CELL_NAMES = list(zoo.CELLS)
GATED = [name for name in zoo.CELLS if not name.startswith("simple")]


@jax.jit
def gates_of(cell, carry, x):
    return cell.gates(carry, x)


@jax.jit
def pull_back(cell, carry, x, cotangent):
    return jax.vjp(lambda *at: at[0](*at[1:])[0], cell, carry, x)[1](cotangent)


def case(name, seed=3):
    cell = zoo.CELLS[name](IN, H, seed)
    carry = zoo.random_carry(cell, seed, B)
    x = jnp.asarray(2.0 * np.random.default_rng(seed).normal(size=(B, IN)))
    return cell, carry, x


@pytest.mark.parametrize("name", CELL_NAMES)
def test_one_step_is_the_published_equation(name):
    cell, carry, x = case(name)
    after, y = one_step(cell, carry, x)
    rows = zip(zoo.flat(carry), np.asarray(x), strict=True)
    expected = [zoo.oracle(cell).step(c, v) for c, v in rows]
    np.testing.assert_allclose(zoo.flat(after), [c for c, _ in expected], rtol=1e-12, atol=1e-13)
    np.testing.assert_allclose(y, [h for _, h in expected], rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("name", CELL_NAMES)
def test_one_step_derivatives_are_the_hand_derived_ones(name):
    cell, carry, x = case(name)
    carry, x = jax.tree.map(lambda a: a[0], (carry, x))
    leaves, structure = jax.tree.flatten(carry)
    total = np.random.default_rng(9).normal(size=(len(leaves), H))
    cotangent = jax.tree.unflatten(structure, list(jnp.asarray(total)))
    by_cell, by_carry, by_x = pull_back(cell, carry, x, cotangent)
    twin = zoo.oracle(cell)
    A, J = twin.jacobian(zoo.flat(carry), np.asarray(x))
    dL = total.ravel()
    np.testing.assert_allclose(zoo.flat(by_carry), A.T @ dL, rtol=1e-11, atol=1e-13)
    np.testing.assert_allclose(by_x, J.T @ dL, rtol=1e-11, atol=1e-13)
    chex.assert_trees_all_close(
        zoo.weights_of(by_cell),
        twin.gradient(zoo.flat(carry), np.asarray(x), dL),
        rtol=1e-11,
        atol=1e-13,
    )


def block(cell, gate, carry_h, x):
    """Pre-activation of one gate, by slicing the fused weights at its name's place."""
    columns = slice(cell.blocks.index(gate) * H, (cell.blocks.index(gate) + 1) * H)
    weights = zoo.weights_of(cell)
    product = x @ weights["kernel"] + carry_h @ weights["recurrent_kernel"] + weights["bias"]
    return product[:, columns]


@pytest.mark.parametrize("name", [name for name in GATED if name.startswith("lstm")])
def test_lstm_gates_are_the_ones_that_make_the_step(name):
    cell, (c, h), x = case(name)
    gates = {k: np.asarray(v) for k, v in gates_of(cell, (c, h), x).items()}
    (c_new, h_new), _ = one_step(cell, (c, h), x)
    c, h, x, c_new, h_new = map(np.asarray, (c, h, x, c_new, h_new))

    names = [gate for gate in cell.blocks if gate != "candidate"]
    peephole = zoo.weights_of(cell).get("peephole", np.zeros((len(names), H)))
    seen = {"input": c, "forget": c, "output": c_new}
    for row, gate in zip(peephole, names, strict=True):
        expected = oracles.sigmoid(block(cell, gate, h, x) + row * seen[gate])
        np.testing.assert_allclose(gates[gate], expected, rtol=1e-12)
    if "input" not in names:
        np.testing.assert_allclose(gates["input"], 1 - gates["forget"], rtol=1e-12)
    assert set(gates) == {"input", "output", *names}
    assert all(((v > 0) & (v < 1)).all() for v in gates.values())

    g = np.tanh(block(cell, "candidate", h, x))
    kept = gates.get("forget", 1.0) * c
    np.testing.assert_allclose(c_new, kept + gates["input"] * g, rtol=1e-12, atol=1e-14)
    m_new = gates["output"] * np.tanh(c_new)
    if cell.projection_kernel is not None:
        m_new = m_new @ cell.projection_kernel[...]
    np.testing.assert_allclose(h_new, m_new, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("name", [name for name in GATED if name.startswith("gru")])
def test_gru_gates_are_the_ones_that_make_the_step(name):
    cell, h, x = case(name)
    gates = {k: np.asarray(v) for k, v in gates_of(cell, h, x).items()}
    h_new = np.asarray(one_step(cell, h, x)[0])
    h, x = np.asarray(h), np.asarray(x)
    assert set(gates) == {"reset", "update"}
    for gate, value in gates.items():
        np.testing.assert_allclose(value, oracles.sigmoid(block(cell, gate, h, x)), rtol=1e-12)
        assert ((value > 0) & (value < 1)).all()
    # h' lies between the candidate, which is in (−1, 1), and h.
    candidate = (h_new - gates["update"] * h) / (1 - gates["update"])
    assert (np.abs(candidate) < 1).all()


def saturated(cell, gate, value):
    """The cell with one gate's bias pushed so far that it is exactly 0 or 1."""
    start = cell.blocks.index(gate) * H
    cell.bias[...] = cell.bias[...].at[start : start + H].set(value)
    return cell


def test_an_open_forget_gate_and_a_shut_input_gate_keep_the_cell_state_exactly():
    cell, (c, h), x = case("lstm")
    cell = saturated(saturated(cell, "forget", 1e3), "input", -1e3)
    (c_new, _), _ = one_step(cell, (c, h), x)
    np.testing.assert_array_equal(c_new, c)


@pytest.mark.parametrize("name", ["gru_reset_after", "gru_reset_before"])
def test_a_full_update_gate_keeps_the_gru_state_exactly(name):
    cell, h, x = case(name)
    np.testing.assert_array_equal(one_step(saturated(cell, "update", 1e3), h, x)[0], h)


def test_the_two_grus_differ_only_by_where_the_reset_acts():
    after, h, x = case("gru_reset_after")
    before = zoo.CELLS["gru_reset_before"](IN, H, 3)
    after.candidate_recurrent_bias[...] = jnp.zeros(H)
    assert not np.allclose(one_step(after, h, x)[0], one_step(before, h, x)[0])
    saturated(after, "reset", 1e3)
    saturated(before, "reset", 1e3)
    np.testing.assert_allclose(one_step(after, h, x)[0], one_step(before, h, x)[0], rtol=1e-12)


@pytest.mark.parametrize("name", ["simple_tanh", "lstm_peephole", "gru_reset_before"])
def test_a_step_is_split_in_projection_and_recurrence(name):
    cell, carry, x = case(name)
    chex.assert_trees_all_close(
        cell.step(carry, cell.project(x)), cell(carry, x), rtol=1e-13, atol=1e-14
    )
    xs = jnp.stack([x, -x])
    np.testing.assert_allclose(cell.project(xs)[1], cell.project(-x), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("name", ["lstm_peephole", "gru_reset_after", "simple_leaky_relu"])
def test_cells_of_equal_structure_compile_once(name):
    one, other = (zoo.CELLS[name](IN, H, seed) for seed in (1, 2))
    assert jax.tree.structure(one) == jax.tree.structure(other)
    x = jnp.ones(IN)
    chex.clear_trace_counter()

    @jax.jit
    @chex.assert_max_traces(n=1)
    def run(cell, x):
        return cell(cell.initialize_carry(x.shape), x)[1]

    assert not np.allclose(run(one, x), run(other, x))
    np.testing.assert_array_equal(run(one, x), run(one, x))


def test_cells_of_different_kind_are_different_structures():
    structures = {jax.tree.structure(build(IN, H, 0)) for build in zoo.CELLS.values()}
    # forget_bias only sets an initial value, so that one cell shares the LSTM's program.
    assert len(structures) == len(zoo.CELLS) - 1


@pytest.mark.parametrize("make", [rj.SimpleRNNCell, rj.LSTMCell, rj.GRUCell])
def test_vmap_over_the_constructor_builds_an_ensemble(make):
    keys = jax.random.split(jax.random.key(0), 3)
    cells = jax.vmap(lambda key: make(IN, H, rngs=nnx.Rngs(key)))(keys)
    for index, key in enumerate(keys):
        alone = make(IN, H, rngs=nnx.Rngs(key))
        member = jax.tree.map(lambda leaf, at=index: leaf[at], cells)
        assert jax.tree.structure(member) == jax.tree.structure(alone)
        chex.assert_trees_all_close(
            zoo.weights_of(member), zoo.weights_of(alone), rtol=1e-12, atol=1e-13
        )
    x = jnp.linspace(-1.0, 1.0, IN)

    @jax.jit
    def run(cell):
        return cell(cell.initialize_carry(x.shape), x)[1]

    ys = jax.jit(jax.vmap(run))(cells)
    for index in range(3):
        member = jax.tree.map(lambda leaf, at=index: leaf[at], cells)
        np.testing.assert_allclose(ys[index], run(member), rtol=1e-12, atol=1e-13)


EPS = {"float32": 2.0**-23, "float64": 2.0**-52, "bfloat16": 2.0**-7}


@pytest.mark.parametrize("dtype", EPS)
@pytest.mark.parametrize("name", ["simple_tanh", "lstm_peephole", "gru_reset_after"])
def test_parameters_and_results_have_the_type_asked_for(name, dtype):
    make = {
        "simple_tanh": rj.SimpleRNNCell,
        "lstm_peephole": lambda *sizes, **options: rj.LSTMCell(*sizes, peephole=True, **options),
        "gru_reset_after": rj.GRUCell,
    }[name]
    cell = zoo.randomised(make(IN, H, param_dtype=dtype, rngs=nnx.Rngs(0)), 0)
    assert {str(leaf.dtype) for leaf in jax.tree.leaves(cell)} == {dtype}
    x = jnp.asarray([0.5, -1.0, 0.25], dtype)
    carry = jax.tree.map(lambda a: a + jnp.asarray(0.5, dtype), cell.initialize_carry((IN,)))
    after, y = one_step(cell, carry, x)
    assert {str(leaf.dtype) for leaf in jax.tree.leaves((carry, after, y))} == {dtype}
    # The oracle holds the same rounded weights, so only the arithmetic differs: some tens of
    # roundings of numbers of order 1.
    expected, _ = zoo.oracle(cell).step(zoo.flat(carry), np.asarray(x, np.float64))
    np.testing.assert_allclose(zoo.flat(after), expected, atol=10 * EPS[dtype])


@pytest.mark.parametrize("make", [rj.SimpleRNNCell, rj.LSTMCell, rj.GRUCell])
def test_dtype_computes_in_that_type_whatever_the_parameters(make):
    cell = make(IN, H, dtype=jnp.float32, param_dtype=jnp.float64, rngs=nnx.Rngs(0))
    after, y = one_step(cell, cell.initialize_carry((IN,)), jnp.ones(IN, jnp.float64))
    assert {leaf.dtype.name for leaf in jax.tree.leaves((after, y))} == {"float32"}
    wide = make(IN, H, param_dtype=jnp.float64, rngs=nnx.Rngs(0))
    _, expected = one_step(wide, wide.initialize_carry((IN,)), jnp.ones(IN))
    np.testing.assert_allclose(y, expected, atol=1e-6)
    assert not np.array_equal(y, expected)


@pytest.mark.parametrize("name", ["simple_tanh", "lstm_coupled_peephole", "gru_reset_after"])
def test_an_optimiser_steps_on_the_cell_itself(name):
    cell, carry, x = case(name)
    carry, x = jax.tree.map(lambda a: a[0], (carry, x))
    optimizer = optax.sgd(0.1)

    @jax.jit
    def update(cell, state):
        gradient = jax.grad(lambda cell: jnp.sum(cell(carry, x)[1] ** 2))(cell)
        updates, state = optimizer.update(gradient, state, cell)
        return optax.apply_updates(cell, updates), gradient

    new, gradient = update(cell, optimizer.init(cell))
    assert type(new) is type(cell)
    before, after, slope = map(zoo.weights_of, (cell, new, gradient))
    for weight, value in before.items():
        np.testing.assert_allclose(after[weight], value - 0.1 * slope[weight], atol=1e-15)
        assert np.any(slope[weight] != 0)


@pytest.mark.parametrize("name", ["simple_tanh", "lstm", "gru_reset_after"])
def test_the_initial_carry_is_zero_unless_told_otherwise(name):
    cell = zoo.CELLS[name](IN, H, 0)
    parts = jax.tree.leaves(cell.initialize_carry((2, 5, IN)))
    assert len(parts) == len(cell.carry_parts)
    for part in parts:
        np.testing.assert_array_equal(part, np.zeros((2, 5, H)))
    normal = jax.nn.initializers.normal(1.0)
    drawn = [
        zoo.flat(cell.initialize_carry((2, IN), nnx.Rngs(carry=seed), normal)) for seed in (0, 0, 1)
    ]
    np.testing.assert_array_equal(drawn[0], drawn[1])
    assert len(np.unique(np.concatenate(drawn[1:]))) == 2 * drawn[0].size  # all parts differ


def test_an_activation_may_be_a_name_a_callable_or_one_with_its_slopes():
    x = jnp.linspace(-2.0, 2.0, IN)
    h = jnp.zeros(H)

    def run(activation):
        return rj.SimpleRNNCell(IN, H, activation=activation, rngs=nnx.Rngs(0))(h, x)[0]

    np.testing.assert_array_equal(run("tanh"), run(jnp.tanh))
    np.testing.assert_array_equal(run("leaky_relu"), run(rj.leaky_relu(0.01)))
    z = run("identity")
    np.testing.assert_allclose(run(rj.leaky_relu(0.3)), np.where(z > 0, z, 0.3 * z), rtol=1e-12)
    assert rj.leaky_relu(0.3) is rj.leaky_relu(np.float64(0.3))


SLOPED = {**ACTIVATIONS, "leaky_relu(0.3)": rj.leaky_relu(0.3), "leaky_relu(2)": rj.leaky_relu(2)}


@pytest.mark.parametrize("name", SLOPED)
def test_the_slope_range_holds_every_slope_and_is_reached(name):
    activation = SLOPED[name]
    low, high = rj.activation_slope_range(activation)
    # Dense around 0, and far enough out that saturating slopes are 0; the kink itself left out.
    grid = np.concatenate([np.linspace(-12, 12, 48_001), [-100.0, 100.0]])
    grid = jnp.asarray(grid[grid != 0])
    slopes = np.asarray(jax.jit(jax.vmap(jax.grad(activation)))(grid))
    if name == "softsign":
        slopes = np.append(slopes, 1 / (1 + 1e9) ** 2)  # 1 / (1 + |x|)² falls off slowly
    assert slopes.min() >= low - 1e-12
    assert slopes.max() <= high + 1e-12
    np.testing.assert_allclose([slopes.min(), slopes.max()], [low, high], atol=2e-3)


def test_a_jax_function_has_the_slopes_of_its_name():
    assert rj.activation_slope_range(jnp.tanh) == (0.0, 1.0)
    assert rj.activation_slope_range(jax.nn.sigmoid) == (0.0, 0.25)
    assert rj.activation_slope_range(rj.Activation("half", lambda x: x / 2, (0.5, 0.5))) == (
        0.5,
        0.5,
    )


@pytest.mark.parametrize("activation", ["tanh", "leaky_relu", "sin"])
def test_the_jacobian_bound_bounds_the_jacobian(activation):
    cell = rj.SimpleRNNCell(IN, H, activation=activation, rngs=nnx.Rngs(1))
    slope, W_h = cell.jacobian_bound()
    bound = slope * np.linalg.norm(W_h, 2)
    hs = jnp.asarray(np.random.default_rng(0).normal(size=(20, H)))
    x = jnp.ones(IN)
    jacobians = jax.jit(jax.vmap(jax.jacrev(lambda h: cell(h, x)[0])))(hs)
    assert np.linalg.norm(np.asarray(jacobians), 2, axis=(1, 2)).max() <= bound + 1e-12
