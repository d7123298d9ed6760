"""A recurrence has the form that fits the platform which its program is for, exported ones too."""

import jax
import jax.numpy as jnp
import numpy as np
import platforms
import pytest
from calls_over_time import FEATURES, XS, H, gradient, lstm, run
from flax import nnx

import rnn_jax as rj
from rnn_jax.sequence.kernels import lowerable

platforms.require()
as_a_user = platforms.as_a_user

KERNEL = "__gpu$xla.gpu.triton"
ALL = ("cpu", "cuda", "tpu")
XS_HERE = jnp.asarray(np.random.default_rng(0).normal(size=XS.shape), XS.dtype)


def projects_inside(text):
    """Whether a step multiplies its state and its input by one matrix, as is best on a CPU."""
    together = f"tensor<{H + FEATURES + 1}x{4 * H}xf32>"
    return any(together in line for line in text.splitlines() if "dot_general" in line)


def lowered_here(function, *arguments):
    return jax.jit(function).trace(*arguments).lower(lowering_platforms=("cpu",)).as_text()


def test_a_step_projects_its_own_input_on_a_cpu_alone():
    assert projects_inside(lowered_here(run, lstm(), XS))
    for platform in platforms.PLATFORMS:
        text = platforms.lowered_for(platform, run, lstm(), XS).as_text()
        assert not projects_inside(text)
        assert (KERNEL in text) == (platform == "cuda")


@pytest.mark.parametrize("function", [run, gradient])
def test_an_exported_program_has_a_form_for_each_platform(function):
    exported = jax.export.export(jax.jit(function), platforms=ALL)(lstm(), XS)
    assert exported.platforms == ALL
    text = exported.mlir_module()
    # Both scans, chosen between where it is run; no kernel, since it may be run by a later version.
    assert "stablehlo.case" in text
    assert projects_inside(text)
    assert KERNEL not in text
    for platform in platforms.PLATFORMS:
        platforms.compiled_for(platform, exported.call, lstm(), XS)
    found, expected = exported.call(lstm(), XS_HERE), jax.jit(function)(lstm(), XS_HERE)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), found, expected
    )


@pytest.mark.parametrize("platform", platforms.PLATFORMS)
def test_exported_for_one_platform_it_has_the_form_of_that(platform):
    exported = jax.export.export(jax.jit(run), platforms=[platform])(lstm(), XS)
    assert not projects_inside(exported.mlir_module())


def test_what_asks_for_kernels_is_compiled_with_them_or_refused():
    def by_kernel(cell, xs):
        return rj.unroll(cell, xs, implementation="kernel")

    assert KERNEL in platforms.compiled_for("cuda", by_kernel, lstm(), XS)
    with pytest.raises(ValueError, match="compiled for tpu"):
        platforms.compiled_for("tpu", by_kernel, lstm(), XS)


def test_a_scan_that_is_asked_for_holds_no_kernel():
    def by_scan(cell, xs):
        return rj.unroll(cell, xs, implementation="scan")

    text = platforms.lowered_for("cuda", by_scan, lstm(), XS).as_text()
    assert KERNEL not in text
    assert not projects_inside(text)


def test_what_triton_cannot_lower_is_scanned_or_refused(monkeypatch):
    # As in a version of JAX that makes an activation of something new.
    monkeypatch.setattr(lowerable, "_SUBSTITUTES", {})
    types = {"param_dtype": jnp.float32, "rngs": nnx.Rngs(0)}
    cell = rj.SimpleRNNCell(FEATURES, H, activation="gelu", **types)
    assert KERNEL not in platforms.compiled_for("cuda", run, cell, XS)

    def by_kernel(cell, xs):
        return rj.unroll(cell, xs, implementation="kernel")[1]

    with pytest.raises(ValueError, match=r"cannot lower them: .*Triton"):
        platforms.compiled_for("cuda", by_kernel, cell, XS)


def test_products_of_bfloat16_with_carries_of_float32_are_two_kernels():
    types = {"dtype": jnp.bfloat16, "carry_dtype": jnp.float32, "param_dtype": jnp.float32}
    cell = rj.LSTMCell(FEATURES, 128, **types, rngs=nnx.Rngs(0))
    text = platforms.compiled_for("cuda", gradient, cell, XS)
    assert text.count(f'"{KERNEL}"') == 2
    assert "while(" not in text


@pytest.mark.parametrize("precision", ["high", "highest"])
def test_kernels_take_the_precision_of_where_they_are_traced(precision):
    def at_precision(cell, xs):
        with jax.default_matmul_precision(precision):
            return run(cell, xs)

    assert KERNEL in platforms.compiled_for("cuda", at_precision, lstm(), XS)
