"""Rules of steps for the tests of the kernels, and plain loops in float64 as their oracle."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rnn_jax.activations import ACTIVATIONS
from rnn_jax.sequence.kernels.rules import Group, StepRule, transposed


class Step(NamedTuple):
    """One cell's mathematics: the rules of its three kernels.

    Attributes:
      forward: emits what `tangent` needs, after the parts of the start in `starts`.
      tangent, adjoint: linear; their streams are those.
      starts: which parts of the start are streams, part by part.
    """

    forward: StepRule
    tangent: StepRule
    adjoint: StepRule
    starts: tuple[bool, ...]

    @property
    def streams(self):
        return sum(self.starts) + self.forward.emits


def step_of(groups, hidden, advance, tangent, emits, starts):
    forward = StepRule(groups, len(starts), hidden, advance, emits)
    linear = StepRule(groups, len(starts), hidden, tangent)
    return Step(forward, linear, transposed(linear), starts)


def sigmoid(x):
    return jax.nn.sigmoid(x)


def lstm_advance(carry, pre, streams):
    c, _ = carry
    i, f, g, o = sigmoid(pre[0]), sigmoid(pre[1]), jnp.tanh(pre[2]), sigmoid(pre[3])
    c = f * c + i * g
    return (c, o * jnp.tanh(c)), (i, f, g, o)


def lstm_tangent(carry, pre, streams):
    c_prev, i, f, g, o = streams
    tanh_c = jnp.tanh(f * c_prev + i * g)
    c = f * carry[0] + g * i * (1 - i) * pre[0] + c_prev * f * (1 - f) * pre[1]
    c = c + i * (1 - g * g) * pre[2]
    return (c, tanh_c * o * (1 - o) * pre[3] + o * (1 - tanh_c * tanh_c) * c), ()


def coupled_advance(carry, pre, streams):
    c, _ = carry
    f, g, o = sigmoid(pre[0]), jnp.tanh(pre[1]), sigmoid(pre[2])
    c = f * c + (1 - f) * g
    return (c, o * jnp.tanh(c)), (f, g, o)


def coupled_tangent(carry, pre, streams):
    c_prev, f, g, o = streams
    tanh_c = jnp.tanh(f * c_prev + (1 - f) * g)
    c = f * carry[0] + (c_prev - g) * f * (1 - f) * pre[0] + (1 - f) * (1 - g * g) * pre[1]
    return (c, tanh_c * o * (1 - o) * pre[2] + o * (1 - tanh_c * tanh_c) * c), ()


def gru_advance(carry, pre, streams):
    (h,) = carry
    r, u = sigmoid(pre[0]), sigmoid(pre[1])
    n = jnp.tanh(pre[2] + r * pre[3])
    return ((1 - u) * n + u * h,), (r, u, n, pre[3])


def gru_tangent(carry, pre, streams):
    h, r, u, n, v = streams
    k = (1 - u) * (1 - n * n)
    through_gates = k * v * r * (1 - r) * pre[0] + (h - n) * u * (1 - u) * pre[1]
    return (u * carry[0] + through_gates + k * pre[2] + k * r * pre[3],), ()


def simple_advance(activation, carry, pre, streams):
    h, slope = jax.jvp(ACTIVATIONS[activation], pre, (jnp.ones_like(pre[0]),))
    return (h,), (slope,)


def simple_tangent(carry, pre, streams):
    return (streams[0] * pre[0],), ()


LSTM = step_of((Group(4, True),), 1, lstm_advance, lstm_tangent, 4, (True, False))
COUPLED = step_of((Group(3, True),), 1, coupled_advance, coupled_tangent, 3, (True, False))
GRU = step_of(
    (Group(2, True), Group(1, False), Group(1, True)), 0, gru_advance, gru_tangent, 4, (True,)
)


@functools.cache
def simple(activation="tanh"):
    advance = functools.partial(simple_advance, activation)
    return step_of((Group(1, True),), 0, advance, simple_tangent, 1, (False,))


STEPS = {"lstm": LSTM, "coupled": COUPLED, "gru": GRU, "simple": simple()}


@functools.partial(jax.jit, static_argnums=0)
def plain_forward(rule, weights, drives, carry, initial, spare, marks, streams=()):
    """The recurrence as a loop over steps, (M, T, B, ·) arrays in float64.

    Returns:
      (ys, carries, starts, emitted): over time.
    """
    varying = [drive is not None and drive.ndim == 4 for drive in drives]

    def body(carry, at):
        marks_t, drives_t, streams_t = at
        starts, skipped = ((marks_t[..., None] & bit) != 0 for bit in (1, 2))
        entering = [jnp.where(starts, a, b) for a, b in zip(initial, carry, strict=True)]
        source = [jnp.where(skipped, a, b) for a, b in zip(spare, entering, strict=True)]
        pre, rest = [], iter(weights)
        for group, drive, drive_t in zip(rule.groups, drives, drives_t, strict=True):
            shape = (*carry[0].shape[:-1], group.blocks * carry[0].shape[-1])
            u = jnp.zeros(shape)
            if drive is not None:
                u += drive[:, None] if drive_t is None else drive_t
            if group.sees_state:
                u += jnp.einsum("mbh,mhk->mbk", source[rule.hidden], next(rest))
            pre += jnp.split(u, group.blocks, axis=-1)
        after, emitted = rule.function(tuple(source), tuple(pre), streams_t)
        carry = tuple(jnp.where(skipped, a, b) for a, b in zip(entering, after, strict=True))
        y = jnp.where(skipped, 0.0, after[rule.hidden])
        return carry, (y, carry, tuple(source), tuple(emitted))

    by_time = (
        marks,
        [drive if varies else None for drive, varies in zip(drives, varying, strict=True)],
        streams,
    )
    by_time = jax.tree.map(lambda x: jnp.moveaxis(x, 1, 0), by_time)
    record = jax.lax.scan(body, tuple(carry), by_time)[1]
    return jax.tree.map(lambda x: jnp.moveaxis(x, 0, 1), record)


class Case(NamedTuple):
    """Arrays of a run, float32, with NumPy."""

    weights: tuple
    drives: tuple
    carry: tuple
    initial: tuple
    spare: tuple
    marks: np.ndarray


def case_of(step, members, steps, rows, units, *, marked, seed=0):
    """Random arrays; where a group sees the state alone, its drive is constant."""
    random = np.random.default_rng(seed)

    def normal(*shape, scale=1.0):
        return (scale * random.normal(size=shape)).astype(np.float32)

    groups, parts = step.forward.groups, step.forward.parts
    constant = [i > 0 and group.sees_state for i, group in enumerate(groups)]
    times = {False: (members, steps, rows), True: (members,)}
    state = (members, rows, units)
    marks = random.integers(0, 4, (members, steps, rows)) if marked else np.zeros(times[False], int)
    return Case(
        weights=tuple(
            normal(members, units, group.blocks * units, scale=units**-0.5)
            for group in groups
            if group.sees_state
        ),
        drives=tuple(
            normal(*times[c], group.blocks * units)
            for c, group in zip(constant, groups, strict=True)
        ),
        carry=tuple(normal(*state) for _ in range(parts)),
        initial=tuple(normal(*state) for _ in range(parts)),
        spare=tuple(np.zeros(state, np.float32) for _ in range(parts)),
        marks=marks.astype(np.int32),
    )


def in_float64(tree):
    def widened(x):
        x = np.asarray(x)
        return x.astype(np.float64) if x.dtype == np.float32 else x

    return jax.tree.map(widened, tree)


def close(found, expected, tolerance=3e-6):
    """Same structure, and each array within the tolerance of the largest value expected."""
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert a.dtype == jnp.float32
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * max(1, np.abs(b).max()))
