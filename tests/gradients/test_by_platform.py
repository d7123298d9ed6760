"""Which way a program takes follows the platform that it is lowered for, and nothing else."""

import functools
import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import AbstractDevice, AbstractMesh

import rnn_jax as rj
from rnn_jax.gradients.by_platform import by_platform


def doubled(x):
    return {"twice": 2 * x, "sum": jnp.sum(x)}


@chex.assert_max_traces(1)
def added(x):
    return {"twice": x + x, "sum": jnp.sum(x)}


def both(other=added):
    return by_platform(doubled, cuda=other)


def never(x):
    raise AssertionError("traced for a platform that no program was lowered for")


def text(function, *arguments, platform):
    return jax.jit(function).trace(*arguments).lower(lowering_platforms=(platform,)).as_text()


def test_another_platform_takes_its_own_way():
    x = jnp.arange(3.0)
    assert "multiply" in text(both(), x, platform="cpu")
    chex.clear_trace_counter()
    assert "multiply" not in text(both(), x, platform="cuda")
    assert "multiply" in text(both(never), x, platform="tpu")


def test_what_is_exported_for_two_platforms_holds_both_ways():
    chex.clear_trace_counter()
    shape = jax.ShapeDtypeStruct((3,), jnp.float64)
    exported = jax.export.export(jax.jit(both()), platforms=("cpu", "cuda"))(shape)
    assert re.search(r"case|if", exported.mlir_module())
    np.testing.assert_array_equal(exported.call(jnp.arange(3.0))["twice"], [0.0, 2.0, 4.0])


def test_is_the_function_in_every_mode_on_this_platform():
    function, x = both(never), jnp.arange(6.0).reshape(2, 3)
    for mode in (jax.jit, jax.vmap, lambda f: jax.jit(jax.vmap(f, in_axes=1)), lambda f: f):
        jax.tree.map(np.testing.assert_array_equal, mode(function)(x), mode(doubled)(x))
    with jax.disable_jit():
        np.testing.assert_array_equal(function(x)["twice"], 2 * x)

    def loss(scale, f):
        return jnp.sum(jax.vmap(f)(scale * x)["twice"] ** 2)

    for derivative in (jax.grad, jax.jacfwd, jax.hessian):
        found = jax.jit(derivative(functools.partial(loss, f=function)))(3.0)
        np.testing.assert_allclose(found, derivative(functools.partial(loss, f=doubled))(3.0))


def test_is_mapped_where_another_platform_takes_its_own_way():
    chex.clear_trace_counter()
    mapped = jax.vmap(both(), in_axes=1)
    lowered = text(mapped, jnp.ones((3, 2)), platform="cuda")
    assert "multiply" not in lowered
    assert "tensor<2x3xf64>" in lowered


# Which card a program is for, when there is none here.
H100 = AbstractMesh(
    (1,), ("x",), abstract_device=AbstractDevice("NVIDIA H100 80GB HBM3", 132, "gpu")
)


def linearized():
    # 130 steps: 13 blocks of 10 steps.
    cell = rj.LSTMCell(2, 3, param_dtype=jnp.float32, rngs=nnx.Rngs(0))
    return rj.linearize(cell, jnp.zeros((130, 2), jnp.float32))


def test_blocks_of_time_are_for_gpus():
    lin = linearized()
    for platform in ("cpu", "cuda", "tpu"):
        lowered = text(rj.jacobian_log_norms, lin, platform=platform)
        assert ("tensor<10x13x6x6xf32>" in lowered) == (platform == "cuda")


@pytest.mark.parametrize("measure", ["attribution", "lyapunov_exponents"])
def test_kernels_are_for_a_card_that_is_known_and_not_for_export(measure):
    lin, call, kernel = linearized(), getattr(rj, measure), "__gpu$xla.gpu.triton"
    assert kernel not in text(call, lin, platform="cuda")
    with jax.sharding.use_abstract_mesh(H100):
        assert kernel in text(call, lin, platform="cuda")
        exported = jax.export.export(jax.jit(call), platforms=("cuda",))(lin)
    assert kernel not in exported.mlir_module()


def test_doubles_have_no_kernel():
    lin = linearized()
    with jax.sharding.use_abstract_mesh(H100):
        doubled = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), lin)
        assert "triton" not in text(rj.lyapunov_exponents, doubled, platform="cuda")
