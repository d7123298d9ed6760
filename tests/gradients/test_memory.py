"""A result that cannot fit into memory is refused before anything is computed."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import AbstractDevice, AbstractMesh
from test_reference import arrays_of

import rnn_jax as rj
from refusing import refused

T, FEATURES, H = 4, 2, 3
XS = np.random.default_rng(0).normal(size=(T, FEATURES))


@jax.jit
def loss(ys):
    return jnp.sum(ys)


@functools.cache
def simple():
    return rj.SimpleRNNCell(FEATURES, H, rngs=nnx.Rngs(0))


LONG = 200_000
TOO_LARGE = {
    "linearize": (rj.linearize, "backprop_signal"),
    "input_jacobian": (rj.input_jacobian, "jacobian_log_norms"),
    "state_jacobian": (rj.state_jacobian, "jacobian_log_norms"),
    "jacobian_log_norms": (rj.jacobian_log_norms, "targets="),
    "weight_gradient_by_step": (
        lambda *args: rj.weight_gradient_by_step(loss, *args),
        "weight_gradient_log_norms",
    ),
}


@pytest.mark.parametrize("name", [*TOO_LARGE, "gradient_flow"])
def test_a_sequence_whose_result_cannot_fit_is_refused_at_once(name):
    call, instead = TOO_LARGE.get(name, (rj.gradient_flow, "targets="))
    cell = rj.LSTMCell(FEATURES, 256, recurrent_kernel_init="zeros", rngs=nnx.Rngs(0))
    message = refused(
        lambda: call(cell, np.zeros((LONG, FEATURES))),
        ValueError,
        f"^{name if name in TOO_LARGE else 'jacobian_log_norms'} would need [0-9,]+ bytes",
        re.escape(f"{LONG}"),
        "are free",
        re.escape(instead),
    )
    needed = int(re.search(r"need ([0-9,]+) bytes", message)[1].replace(",", ""))
    assert needed > 10**11


@pytest.mark.parametrize("name", TOO_LARGE)
def test_a_result_is_refused_exactly_when_it_does_not_fit(name, monkeypatch):
    call, instead = TOO_LARGE[name]
    cell, xs = simple(), np.zeros((11, FEATURES))
    # What fits is compiled; whether it fits is asked at every call all the same.
    call(cell, xs)
    monkeypatch.setattr("rnn_jax.gradients.memory.available_bytes", lambda: 8)
    message = refused(
        lambda: call(cell, xs), ValueError, f"^{name} would", r"\b8 are free", instead
    )
    needed, result = (
        int(re.search(pattern, message)[1].replace(",", ""))
        for pattern in (r"need ([0-9,]+) bytes", r"([0-9,]+) of them for its result")
    )
    monkeypatch.setattr("rnn_jax.gradients.memory.available_bytes", lambda: needed - 1)
    refused(lambda: call(cell, xs), ValueError, f"{needed - 1:,} are free")
    monkeypatch.setattr("rnn_jax.gradients.memory.available_bytes", lambda: needed)
    result_of_call = call(cell, xs)
    leaves = jax.tree.leaves(arrays_of(result_of_call) if name == "linearize" else result_of_call)
    if name != "linearize":  # whose first array is one of several
        assert result == sum(leaf.nbytes for leaf in leaves)
    assert needed >= sum(leaf.nbytes for leaf in leaves) - 8 * (12 * H + 11 * H)


def test_targets_are_not_advised_to_who_passes_them(monkeypatch):
    monkeypatch.setattr("rnn_jax.gradients.memory.available_bytes", lambda: 8)
    call = lambda: rj.jacobian_log_norms(simple(), np.zeros((12, FEATURES)), targets=[-1])  # noqa: E731
    message = refused(call, ValueError, "shorter sequence")
    assert "Pass targets=" not in message


def test_nothing_is_refused_where_the_platform_does_not_say_what_is_free(monkeypatch):
    monkeypatch.setattr("rnn_jax.gradients.memory.available_bytes", lambda: None)
    assert np.isfinite(rj.input_jacobian(simple(), np.ones((13, FEATURES)))).all()


# ---- Batches, and programs that are compiled.

BATCH = 5


def needs(call, monkeypatch):
    """How many bytes a call says it needs when there are none."""
    monkeypatch.setattr("rnn_jax.gradients.memory.available_bytes", lambda: 0)
    message = refused(call, ValueError, "would need")
    return int(re.search(r"need ([0-9,]+) bytes", message)[1].replace(",", ""))


WAYS = {
    "vmap": lambda call, batch: jax.vmap(call)(batch),
    "vmap of vmap": lambda call, batch: jax.vmap(jax.vmap(call))(batch[:, None]),
    "vmap of jit": lambda call, batch: jax.vmap(jax.jit(lambda xs: call(xs)))(batch),
    "jit of vmap": lambda call, batch: jax.jit(jax.vmap(call))(batch),
    "vmap of grad": lambda call, batch: jax.vmap(
        jax.grad(lambda xs: sum(jnp.sum(leaf) for leaf in floats(call(xs))))
    )(batch),
}


def floats(tree):
    return [leaf for leaf in jax.tree.leaves(tree) if jnp.issubdtype(leaf.dtype, jnp.floating)]


# Every way of one call, and the others within and outside of `jit`.
@pytest.mark.parametrize(
    ("name", "way"),
    [
        *(("input_jacobian", way) for way in WAYS),
        *(("linearize", way) for way in ("vmap", "jit of vmap")),
        *(("jacobian_log_norms", way) for way in ("vmap", "jit of vmap")),
    ],
)
def test_a_batch_must_fit_as_a_whole(name, way, monkeypatch):
    cell, batch = simple(), jnp.asarray(np.random.default_rng(1).normal(size=(BATCH, T, FEATURES)))
    call = lambda xs: TOO_LARGE[name][0](cell, xs)  # noqa: E731
    one = needs(lambda: call(batch[0]), monkeypatch)
    # Inside `jit` it is not asked what is free while tracing, but what there is at all.
    inside = "available_bytes" if "jit" not in way else "total_bytes"
    other = {"available_bytes": "total_bytes", "total_bytes": "available_bytes"}[inside]
    limit = lambda which, to: monkeypatch.setattr(  # noqa: E731
        f"rnn_jax.gradients.memory.{which}", lambda: to
    )
    limit(other, 10**15 if inside == "available_bytes" else 0)
    limit(inside, BATCH * one)
    assert all(np.isfinite(leaf).any() for leaf in floats(WAYS[way](call, batch)))
    limit(inside, BATCH * one - 1)
    refused(
        lambda: WAYS[way](call, batch),
        ValueError,
        f"{BATCH * one:,} bytes",
        f"{one:,} for each of {BATCH} sequences",
    )


def test_the_batch_of_a_gradient_flow_must_fit_as_a_whole(monkeypatch):
    cell, batch = simple(), np.ones((BATCH, T, FEATURES))
    one = needs(lambda: rj.gradient_flow(cell, batch[0]), monkeypatch)
    assert needs(lambda: rj.gradient_flow(cell, batch), monkeypatch) == BATCH * one


def test_what_is_free_is_asked_at_every_call(monkeypatch):
    cell, xs = simple(), np.ones((T, FEATURES))
    rj.input_jacobian(cell, xs)
    assert needs(lambda: rj.input_jacobian(cell, xs), monkeypatch) > 0
    monkeypatch.setattr("rnn_jax.gradients.memory.available_bytes", lambda: 10**12)
    rj.input_jacobian(cell, xs)


def test_a_program_that_was_traced_while_memory_was_short_runs_later(monkeypatch):
    monkeypatch.setattr("rnn_jax.gradients.memory.available_bytes", lambda: 0)
    call = jax.jit(lambda xs: rj.input_jacobian(simple(), xs))
    assert np.isfinite(call(np.ones((T, FEATURES)))).all()


KEYS = jax.random.split(jax.random.key(0), BATCH)
MAPPED = {
    "targets": (
        lambda target: rj.jacobian_log_norms(simple(), XS, targets=target),
        jnp.arange(3)[:, None],
    ),
    "keys": (lambda key: rj.estimate_jacobian_log_norms(simple(), XS, key=key), KEYS),
    "targets of an estimate": (
        lambda target: rj.estimate_jacobian_log_norms(simple(), XS, targets=target, key=KEYS[0]),
        jnp.arange(3)[:, None],
    ),
    "keys of a spectrum": (
        lambda key: rj.estimate_jacobian_log_singular_values(
            simple(), XS, k=1, key=key, oversample=0, iterations=0
        ),
        KEYS,
    ),
}


@pytest.mark.parametrize("name", MAPPED)
def test_whatever_is_mapped_over_makes_copies(name, monkeypatch):
    call, values = MAPPED[name]
    needed = len(values) * needs(lambda: call(values[0]), monkeypatch)
    monkeypatch.setattr("rnn_jax.gradients.memory.available_bytes", lambda: needed - 1)
    refused(lambda: jax.vmap(call)(values), ValueError, f"{needed:,} bytes")
    monkeypatch.setattr("rnn_jax.gradients.memory.available_bytes", lambda: needed)
    jax.vmap(call)(values)


def test_what_is_traced_for_a_device_that_is_not_here_is_its_compilers_to_refuse(monkeypatch):
    monkeypatch.setattr("rnn_jax.gradients.memory.total_bytes", lambda: 1)
    traced = jax.jit(rj.input_jacobian)
    refused(lambda: traced.trace(simple(), XS), ValueError, "are there")
    device = AbstractDevice("NVIDIA H100 80GB HBM3", 132, "gpu")
    mesh = AbstractMesh((1,), ("x",), abstract_device=device)
    with jax.sharding.use_abstract_mesh(mesh):
        assert traced.trace(simple(), XS).out_info.shape == (T, H, T, FEATURES)
