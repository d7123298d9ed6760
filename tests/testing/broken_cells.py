"""Cells each of which breaks one law on purpose, and the law that must catch it."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

import rnn_jax as rj

IN, H = 2, 4


# ---- One step.


class Drifts(rj.SimpleRNNCell):
    """The carry comes back in another type."""

    def step(self, carry, z):
        h, y = super().step(carry, z)
        return h.astype(jnp.float32), y


class GrowsItsCarry(rj.SimpleRNNCell):
    def step(self, carry, z):
        h, y = super().step(carry, z)
        return (h, h), y


def returns_the_state_alone(carry, x):
    return jnp.tanh(carry + x)


class Remembers:
    """Sees, by a closure, what it was called with before."""

    def __init__(self):
        self.seen = []

    def __call__(self, carry, x):
        h = jnp.tanh(carry + x + sum(0.1 * before for before in self.seen[-1:]))
        if not isinstance(x, jax.core.Tracer):
            self.seen.append(x)
        return h, h


class AsksWhetherItIsTraced(rj.SimpleRNNCell):
    def step(self, carry, z):
        h, _ = super().step(carry, z)
        h = 0.9 * h if isinstance(h, jax.core.Tracer) else h
        return h, h


class MixesRows(rj.SimpleRNNCell):
    """Less the mean over all axes, where that over units is meant."""

    def step(self, carry, z):
        h, _ = super().step(carry, z)
        h = h - jnp.mean(h)
        return h, h


@jax.custom_batching.custom_vmap
def forgets_its_batch(u):
    return jnp.tanh(u)


@forgets_its_batch.def_vmap
def _(size, is_batched, u):
    return jnp.broadcast_to(jnp.tanh(u[:1]), u.shape), True


class IsNotMapped(rj.SimpleRNNCell):
    def step(self, carry, z):
        h = forgets_its_batch(z + carry @ self.recurrent_kernel[...])
        return h, h


# ---- Claims. A class that states a step of its own makes its claims anew.


class DropsItsBias(rj.SimpleRNNCell):
    """A fused form without the row of biases."""

    def fused_form(self):
        form = super().fused_form()
        return form._replace(kernels=tuple(k.at[-1].set(0) for k in form.kernels))


class _WrongTangent:
    def __init__(self, right):
        self.right = right

    def __getattr__(self, name):
        return getattr(self.right, name)

    def __hash__(self):
        return hash(self.right)

    def tangent(self, coefficients, carry, pre):
        return jax.tree.map(lambda a: 1.01 * a, self.right.tangent(coefficients, carry, pre))


class HasAWrongTangent(rj.SimpleRNNCell):
    def fused_form(self):
        form = super().fused_form()
        return form._replace(mathematics=_WrongTangent(form.mathematics))


class Smoothing(nnx.Module):
    """h' = a ∘ h + (1 − a) ∘ x, from which the broken linear forms are made."""

    in_features = 4

    def __init__(self, in_features, hidden_features, *, rngs):
        del in_features, hidden_features, rngs
        self.rate = nnx.Param(jnp.linspace(0.0, 2.0, 4))

    def initialize_carry(self, input_shape):
        return jnp.zeros(input_shape)

    def transition(self, x):
        a = jnp.broadcast_to(jax.nn.sigmoid(self.rate[...]), x.shape)
        return a, (1 - a) * x

    def __call__(self, h, x):
        a, b = self.transition(x)
        return a * h + b, a * h + b

    def linear_form(self):
        return rj.LinearForm("diagonal", self.transition, contracts=True)


class HasAWrongFactor(Smoothing):
    def linear_form(self):
        def transition(x):
            a, b = self.transition(x)
            return 1.01 * a, b

        return rj.LinearForm("diagonal", transition)


class NormalisesOverTime(Smoothing):
    """Right for one step, and with many at once it looks ahead."""

    def linear_form(self):
        def output(carry, x):
            return carry - (jnp.mean(carry, 0, keepdims=True) if carry.ndim > 1 else 0 * carry)

        return rj.LinearForm("diagonal", self.transition, output)


class SaysItContracts(Smoothing):
    def transition(self, x):
        a = jnp.broadcast_to(1.5 + 0 * self.rate[...], x.shape)
        return a, (1 - a) * x

    def __call__(self, h, x):
        a, b = self.transition(x)
        return a * h + b, a * h + b

    def linear_form(self):
        return rj.LinearForm("diagonal", self.transition, contracts=True)


class SaysItIsDiagonal(rj.SimpleRNNCell):
    diagonal_part = "h"


class HasOtherSlopes(rj.SimpleRNNCell):
    def slopes(self, carry, x):
        return super().slopes(carry, x) ** 2


class HandsOnTheWrongGate(rj.LSTMCell):
    def memory_path(self, carry, x):
        return {"c": self.gates(carry, x)["input"]}


class HasTooLowABound(rj.SimpleRNNCell):
    def jacobian_bound(self):
        slope, kernel = super().jacobian_bound()
        return 0.01 * slope, kernel


class SwapsItsGates(rj.GRUCell):
    def gates(self, carry, x):
        gates = super().gates(carry, x)
        return {"reset": gates["update"], "update": gates["reset"]}


class HasOtherGates(rj.GRUCell):
    def gates(self, carry, x):
        return {name: gate**2 for name, gate in super().gates(carry, x).items()}


class HasLogitsForGates(rj.GRUCell):
    def gates(self, carry, x):
        reset, update, _ = jnp.split(30 * self.project(x), 3, axis=-1)
        return {"reset": reset, "update": update}


# ---- Sequences.


class Doubled(rj.SimpleRNNCell):
    """A call that is more than its halves, and says it is not."""

    splits_call = True

    def __call__(self, carry, x):
        h, _ = self.step(carry, self.project(x))
        return 0.5 * h, h

    def _check_carry(self, carry, x):
        super()._check_carry(carry, x)


class StartsElsewhere(rj.SimpleRNNCell):
    """Where a sequence starts depends on how often that was asked."""

    def initialize_carry(self, input_shape, rngs=None, carry_init=None):
        self.asked = getattr(self, "asked", 0) + 1
        return super().initialize_carry(input_shape, rngs, carry_init) + 0.1 * self.asked


class StartsWithoutBatch(rj.SimpleRNNCell):
    def initialize_carry(self, input_shape, rngs=None, carry_init=None):
        return super().initialize_carry(input_shape[-1:], rngs, carry_init)


@jax.custom_batching.custom_vmap
def has_one_member(w, h):
    return jnp.tanh(w * h)


@has_one_member.def_vmap
def _(size, is_batched, w, h):
    w = w[:1] if is_batched[0] else w[None]
    return jnp.tanh(w * (h if is_batched[1] else h[None])), True


class HasOneMember(Smoothing):
    def __call__(self, h, x):
        h = has_one_member(self.rate[...], h + x)
        return h, h


# ---- Derivatives and numbers.


@jax.custom_jvp
def wrong_slope(u):
    return jnp.tanh(u)


wrong_slope.defjvp(lambda at, along: (jnp.tanh(*at), 0.5 * along[0]))


@jax.custom_jvp
def frozen_slope(u):
    return jnp.tanh(u)


@frozen_slope.defjvp
def _(at, along):
    y = jnp.tanh(*at)
    return y, jax.lax.stop_gradient(1 - y**2) * along[0]


def wrongly_transposed(u):
    """u, by a linear function whose transpose is another."""
    return jax.custom_derivatives.linear_call(lambda _, v: v, lambda _, v: 2.0 * v, (), u)


def log_of_exp(u):
    return jnp.log(1 + jnp.exp(u))


def with_activation(activation):
    return functools.partial(rj.SimpleRNNCell, activation=activation)


class NeedsFloat64(rj.SimpleRNNCell):
    def step(self, carry, z):
        h, y = super().step(carry, z)
        return h, y.astype(jnp.float64)


class ComputesInItsParametersType(rj.SimpleRNNCell):
    """Takes dtype, and never reads it."""

    def project(self, x):
        kernel = self.kernel[...]
        return x.astype(kernel.dtype) @ kernel

    def step(self, carry, z):
        h = jnp.tanh(z + carry.astype(z.dtype) @ self.recurrent_kernel[...])
        return h, h

    def initialize_carry(self, input_shape, rngs=None, carry_init=None):
        return jnp.zeros((*input_shape[:-1], self.hidden_features), self.param_dtype)


# ---- Copies.


class Scale:
    """A number that is compared by identity."""

    def __init__(self, factor):
        self.factor = factor


class HoldsWhatIsNotCompared(rj.SimpleRNNCell):
    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self.scale = Scale(0.5)


BROKEN = {
    "contract: another type": (Drifts, "contract"),
    "contract: another structure": (GrowsItsCarry, "contract"),
    "contract: no pair": (returns_the_state_alone, "contract"),
    "pure: a closure that remembers": (Remembers(), "pure"),
    "jit equals eager": (AsksWhetherItIsTraced, "jit equals eager"),
    "batch axes": (MixesRows, "batch axes"),
    "vmap": (IsNotMapped, "vmap"),
    "fused form: no bias": (DropsItsBias, "fused form"),
    "fused form: tangent": (HasAWrongTangent, "fused form"),
    "linear form: factor": (HasAWrongFactor, "linear form"),
    "linear form: looks ahead": (NormalisesOverTime, "linear form"),
    "linear form: contracts": (SaysItContracts, "linear form"),
    "diagonal part": (SaysItIsDiagonal, "diagonal part"),
    "slopes": (HasOtherSlopes, "slopes"),
    "memory path": (HandsOnTheWrongGate, "memory path"),
    "Jacobian bound": (HasTooLowABound, "Jacobian bound"),
    "gates: names": (SwapsItsGates, "gates"),
    "gates: values": (HasOtherGates, "gates"),
    "gates: range": (HasLogitsForGates, "gates"),
    "unroll equals steps": (Doubled, "unroll equals steps"),
    "pieces": (Doubled, "pieces"),
    "reverse": (Doubled, "reverse"),
    "lengths and resets": (StartsElsewhere, "lengths and resets"),
    "nnx.RNN": (StartsWithoutBatch, "nnx.RNN"),
    "ensemble": (HasOneMember, "ensemble"),
    "gradient": (with_activation(wrong_slope), "gradient"),
    "forward and reverse": (with_activation(wrongly_transposed), "forward and reverse"),
    "second derivative": (with_activation(frozen_slope), "second derivative"),
    "Jacobian": (Doubled, "Jacobian"),
    "extreme inputs": (with_activation(log_of_exp), "extreme inputs"),
    "float32": (NeedsFloat64, "float32"),
    "bfloat16": (ComputesInItsParametersType, "bfloat16"),
    "copy": (HoldsWhatIsNotCompared, "copy"),
    "pickle": (with_activation(lambda u: jnp.tanh(u)), "pickle"),
}


def broken(name):
    """(cell, inputs, carry) of an entry of `BROKEN`."""
    cell, _ = BROKEN[name]
    if isinstance(cell, type | functools.partial):
        return cell(IN, H, rngs=nnx.Rngs(0)), None, None
    return cell, jnp.asarray(np.random.default_rng(0).normal(size=(6, H))), jnp.zeros(H)
