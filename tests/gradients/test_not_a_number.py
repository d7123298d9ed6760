"""One NaN among the inputs: whatever depends on it says so.

XLA's largest and smallest of 4096 numbers or more on a CPU leave out those that are NaN, so the
sequence has more pairs of steps than that.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_one_record import KEY, MEASURES

import rnn_jax as rj
import zoo

T, FEATURES, H, AT = 65, 2, 2, 20
XS = np.random.default_rng(3).normal(size=(T, FEATURES))


def by_lag(statistic, cell, xs):
    return rj.by_lag(rj.jacobian_log_norms(cell, xs), statistic)


def numbers_of_flow(cell, xs):
    """Without what is called by itself."""
    flow = rj.gradient_flow(cell, xs, measures=("change_log_norms", "bound"))
    return flow, flow.by_lag(), flow.rate


def exponents(cell, xs):
    spectrum = MEASURES["lyapunov_exponents"](cell, xs)
    return spectrum, spectrum.convergence(), spectrum.kaplan_yorke_dimension


def products(cell, xs):
    """Without their scales, which are those of numbers that are NaN."""
    return [product[0] for product in MEASURES["operator"](cell, xs)]


def solved(cell, xs):
    """Without the size of the last correction, which is ∞ where a state is NaN."""
    found = rj.newton_unroll(cell, xs)
    return found.ys, found.residual


CALLS = MEASURES | {
    **{f"by_lag {kind}": functools.partial(by_lag, kind) for kind in ("mean", "min", "max")},
    "gradient_flow": numbers_of_flow,
    "operator": products,
    # Its passes back and forth are those of the operator.
    "estimate_singular_values": functools.partial(
        rj.estimate_jacobian_log_singular_values,
        **{"k": 2, "key": KEY, "start": 1, "iterations": 0, "oversample": 0},
    ),
    "singular_values": rj.jacobian_log_singular_values,
    "lyapunov_exponents": exponents,
    "local_lyapunov_exponents": functools.partial(rj.local_lyapunov_exponents, window=5),
    "newton_unroll": solved,
    "unroll": rj.unroll,
}


@functools.cache
def cell():
    return zoo.CELLS["simple_tanh"](FEATURES, H, 1)


def floats(tree):
    leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(tree)]
    return np.concatenate([leaf.ravel() for leaf in leaves if leaf.dtype.kind == "f"])


@pytest.mark.parametrize("name", CALLS)
def test_what_depends_on_a_step_that_is_nan_is_nan(name):
    plain, moved, broken = (
        floats(CALLS[name](cell(), jnp.asarray(XS).at[AT].multiply(factor)))
        for factor in (1.0, 1.5, np.nan)
    )
    depends = plain != moved
    assert depends.any()
    assert np.isfinite(plain[depends]).all()
    assert np.isnan(broken[depends]).all()
