"""Two directions over one sequence, against NumPy, a flipped sequence, and PyTorch."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import oracles
import rnn_jax as rj
import zoo
from refusing import refuses, table

IN, HF, HB, T, B = 3, 4, 2, 6, 3
CLOSE = {"rtol": 1e-11, "atol": 1e-13}
XS = jnp.asarray(np.random.default_rng(0).normal(size=(B, T, IN)))
LENGTHS = [T, 4, 0]
KEY = jax.random.key(0)


@functools.cache
def both():
    return rj.Bidirectional(zoo.CELLS["lstm"](IN, HF, 1), zoo.CELLS["gru_reset_before"](IN, HB, 2))


@jax.jit
def run(bidirectional, xs, carry=None, **options):
    return bidirectional(xs, carry, **options)


def by_oracle(cell, xs, start):
    carries, ys = oracles.run(zoo.oracle(cell).step, np.asarray(xs), zoo.flat(start))
    return carries[-1], ys


@pytest.mark.parametrize("lengths", [None, LENGTHS], ids=["whole", "lengths"])
def test_each_direction_is_its_cell_and_forwards_outputs_come_first(lengths):
    cells, xs = (both().forward, both().backward), np.array(XS)
    carry = tuple(zoo.random_carry(cell, 3, B) for cell in cells)
    for row, length in enumerate(lengths or []):
        xs[row, length:] = np.nan
    given = None if lengths is None else jnp.asarray(lengths)
    last, ys = run(both(), xs, carry, lengths=given)
    assert ys.shape == (B, T, both().hidden_features) == (B, T, HF + HB)
    assert both().in_features == IN
    for row in range(B):
        stop = T if lengths is None else lengths[row]
        np.testing.assert_array_equal(ys[row, stop:], 0.0)
        for cell, end, start, flip, part in zip(
            cells, last, carry, (1, -1), (slice(0, HF), slice(HF, None)), strict=True
        ):
            end, start = (jax.tree.map(lambda leaf, r=row: leaf[r], tree) for tree in (end, start))
            if stop == 0:
                np.testing.assert_array_equal(zoo.flat(end), zoo.flat(start))
                continue
            expected_end, expected = by_oracle(cell, xs[row, :stop][::flip], start)
            np.testing.assert_allclose(ys[row, :stop, part], expected[::flip], **CLOSE)
            np.testing.assert_allclose(zoo.flat(end), expected_end, **CLOSE)


def test_both_directions_keep_within_resets():
    resets = jnp.asarray(np.arange(T) == 2)
    _, ys = run(both(), XS[0], resets=resets)
    for start, stop in ((0, 2), (2, T)):
        _, alone = rj.Bidirectional.__call__(both(), XS[0, start:stop])
        np.testing.assert_allclose(ys[start:stop], alone, **CLOSE)


def test_each_step_sees_the_past_through_forward_and_the_future_through_backward():
    J = np.asarray(jax.jit(jax.jacrev(lambda xs: both()(xs)[1]))(XS[0]))
    for t, s in np.ndindex(T, T):
        assert bool(np.any(J[t, :HF, s] != 0)) == (s <= t)
        assert bool(np.any(J[t, HF:, s] != 0)) == (s >= t)


def test_noise_and_wrapped_cells_and_half_a_carry():
    there, back = (rj.Zoneout(zoo.CELLS["simple_tanh"](IN, HF, seed), 0.5) for seed in (1, 2))
    start = zoo.random_carry(back.cell, 0, B)
    _, ys = run(rj.Bidirectional(there, back), XS, (None, start), key=KEY)
    key_f, key_b = jax.random.split(KEY)  # each cell draws from one of its own
    _, forward = rj.unroll(there, XS, key=key_f)
    _, backward = rj.unroll(back, XS, start, key=key_b, reverse=True)
    np.testing.assert_allclose(ys, jnp.concatenate([forward, backward], axis=-1), **CLOSE)


# PyTorch, two layers of it, with the padding packed away


def torch_twin(name, layers):
    """The PyTorch module of these layers; it has two biases where we have one."""
    torch = pytest.importorskip("torch")
    make = {"lstm": torch.nn.LSTM, "gru_reset_after": torch.nn.GRU}[name]
    module = make(IN, HF, len(layers), bidirectional=True, batch_first=True, dtype=torch.float64)
    with torch.no_grad():
        for weights, suffix in named_weights(layers):
            for ours, theirs in (
                (weights["kernel"].T, "weight_ih"),
                (weights["recurrent_kernel"].T, "weight_hh"),
                (weights["bias"], "bias_ih"),
                (second_bias(weights), "bias_hh"),
            ):
                getattr(module, theirs + suffix).copy_(torch.tensor(ours))
    return torch, module


def named_weights(layers):
    for depth, layer in enumerate(layers):
        yield zoo.weights_of(layer.forward), f"_l{depth}"
        yield zoo.weights_of(layer.backward), f"_l{depth}_reverse"


def second_bias(weights):
    second = np.zeros_like(weights["bias"])
    if "candidate_recurrent_bias" in weights:
        second[2 * HF :] = weights["candidate_recurrent_bias"]
    return second


@pytest.mark.parametrize("name", ["lstm", "gru_reset_after"])
def test_two_layers_are_those_of_pytorch_with_packed_lengths(name):
    layers = [
        rj.Bidirectional(*(zoo.CELLS[name](size, HF, 2 * depth + k) for k in range(2)))
        for depth, size in enumerate((IN, 2 * HF))
    ]
    lengths = [4, T, 1]
    weight_y = np.random.default_rng(1).normal(size=(B, T, 2 * HF))
    weight_end = np.random.default_rng(2).normal(size=(2, 2, B, HF))  # of h, by layer, direction

    @jax.jit
    @functools.partial(jax.value_and_grad, argnums=(0, 1), has_aux=True)
    def value_and_grad(layers, xs):
        value, ends, ys = 0.0, [], xs
        for layer, weights in zip(layers, weight_end, strict=True):
            last, ys = layer(ys, lengths=jnp.asarray(lengths))
            for carry, weight in zip(last, weights, strict=True):
                value = value + jnp.sum(weight * jax.tree.leaves(carry)[-1])
                ends.append(carry)
        return value + jnp.sum(weight_y * ys), (ys, ends)

    (_, (ys, ends)), (by_layers, by_xs) = value_and_grad(layers, XS)

    torch, module = torch_twin(name, layers)
    pack, unpack = torch.nn.utils.rnn.pack_padded_sequence, torch.nn.utils.rnn.pad_packed_sequence
    t_xs = torch.tensor(np.array(XS), requires_grad=True)
    packed = pack(t_xs, torch.tensor(lengths), batch_first=True, enforce_sorted=False)
    t_ys, t_end = module(packed)
    t_ys, _ = unpack(t_ys, batch_first=True, total_length=T)
    h = t_end[0] if name == "lstm" else t_end
    weight_h = torch.tensor(weight_end.reshape(4, B, HF))
    ((torch.tensor(weight_y) * t_ys).sum() + (weight_h * h).sum()).backward()

    def same(ours, theirs):
        np.testing.assert_allclose(ours, theirs.detach().numpy(), rtol=1e-10, atol=1e-12)

    same(ys, t_ys)
    same(by_xs, t_xs.grad)
    for k, end in enumerate(ends):
        # (c, h) where PyTorch has (h, c).
        for ours, theirs in zip(
            jax.tree.leaves(end)[::-1], t_end if name == "lstm" else [t_end], strict=True
        ):
            same(ours, theirs[k])
    for weights, suffix in named_weights(by_layers):
        same(weights["kernel"].T, getattr(module, "weight_ih" + suffix).grad)
        same(weights["recurrent_kernel"].T, getattr(module, "weight_hh" + suffix).grad)
        same(weights["bias"], getattr(module, "bias_ih" + suffix).grad)
        if name != "lstm":
            candidate = getattr(module, "bias_hh" + suffix).grad[2 * HF :]
            same(weights["candidate_recurrent_bias"], candidate)


def test_is_a_pytree_that_compiles_once():
    chex.clear_trace_counter()

    @jax.jit
    @chex.assert_max_traces(n=1)
    def outputs(layer):
        return layer(XS)[1]

    built = [
        rj.Bidirectional(*(zoo.CELLS["simple_tanh"](IN, HF, seed + k) for k in range(2)))
        for seed in (0, 2)
    ]
    assert not np.allclose(*map(outputs, built))
    assert len(jax.tree.leaves(built[0])) == 6


SIMPLE = zoo.CELLS["simple_tanh"](IN, HF, 0)
WIDE = zoo.CELLS["simple_tanh"](IN + 1, HF, 0)
NO_CELL = ("a cell must go from the past to the future", "Bidirectional", "sees the future", "Call")


def loss(ys):
    return jnp.sum(ys)


@table(
    unroll=(lambda: rj.unroll(both(), XS), TypeError, *NO_CELL),
    linearize=(lambda: rj.linearize(both(), XS[0]), TypeError, *NO_CELL),
    jacobian=(lambda: rj.input_jacobian(both(), XS[0]), TypeError, *NO_CELL),
    log_norms=(lambda: rj.jacobian_log_norms(both(), XS[0]), TypeError, *NO_CELL),
    signal=(lambda: rj.backprop_signal(loss, both(), XS[0]), TypeError, *NO_CELL),
    weights=(lambda: rj.weight_gradient_by_step(loss, both(), XS[0]), TypeError, *NO_CELL),
    exponents=(lambda: rj.lyapunov_exponents(both(), XS[0]), TypeError, *NO_CELL),
    values=(lambda: rj.jacobian_log_singular_values(both(), XS[0]), TypeError, *NO_CELL),
    flow=(lambda: rj.gradient_flow(both(), XS), TypeError, *NO_CELL),
    attribution=(lambda: rj.attribution(both(), XS[0]), TypeError, *NO_CELL),
    stack=(
        lambda: rj.StackedCell([SIMPLE, both()]),
        TypeError,
        "cells must go from the past to the future",
        "Bidirectional",
        "sees the future",
        "SequenceModel",
    ),
    wrapped=(
        lambda: rj.Zoneout(both(), 0.1),
        TypeError,
        "a cell must go from the past",
        "Bidirectional",
    ),
    features=(
        lambda: rj.Bidirectional(SIMPLE, WIDE),
        ValueError,
        "must take the same features",
        "3 and 4",
        "Build both",
    ),
    same=(
        lambda: rj.Bidirectional(SIMPLE, SIMPLE),
        ValueError,
        "must have weights of its own",
        "got the same SimpleRNNCell twice",
        "Build another",
    ),
    foreign=(
        lambda: rj.Bidirectional(SIMPLE, lambda carry, x: (carry, x)),
        TypeError,
        "backward must be a cell that knows where a sequence starts",
        "got function",
        "as_cell",
    ),
    a_class=(
        lambda: rj.Bidirectional(rj.LSTMCell, SIMPLE),
        TypeError,
        "forward is no cell: a cell must be an instance",
        "the class LSTMCell",
    ),
    carry=(
        lambda: both()(XS, SIMPLE.initialize_carry((B, IN))),
        ValueError,
        "carry must be a pair",
        "(carry, None)",
    ),
    carries=(lambda: both()(XS, (None,) * 3), ValueError, "carry must be a pair", "3 of them"),
    xs=(lambda: both()(XS[..., :2]), ValueError, "in_features=3", "2 features"),
    lengths=(lambda: both()(XS, lengths=[1, 2, 9]), ValueError, "lengths must lie in", "got 9"),
    resets=(lambda: both()(XS, resets=[1, 0]), TypeError, "resets must be booleans", "int64"),
    key=(lambda: both()(XS, key=0), TypeError, "key must be a JAX random key", "got int"),
)
def test_what_is_refused(call, error, words):
    refuses(call, error, *words)
