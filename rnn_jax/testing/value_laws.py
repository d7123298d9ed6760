"""Laws of the numbers themselves: extreme inputs, and the types a cell can be set to."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from rnn_jax.cells.cell import RNNCell
from rnn_jax.sequence.calling import resolve_step
from rnn_jax.sequence.inputs import input_of_step, is_float
from rnn_jax.testing.derivative_laws import Point, differentiated
from rnn_jax.testing.law import Broken, Law, NotApplicable
from rnn_jax.testing.subject import Subject

EXTREME = 1e4


def _is_finite_far_out(subject: Subject) -> None:
    """Outputs, carries and gradients at inputs of ±1e4."""
    floats = [leaf for leaf in jax.tree.leaves(subject.xs) if is_float(leaf)]
    if not floats:
        raise NotApplicable("the inputs hold no floats")
    of = differentiated(subject)
    for sign in (1, -1):
        far = jax.tree.map(
            lambda leaf, sign=sign: _far(sign, leaf) if is_float(leaf) else leaf,
            subject.xs,
        )
        _check_finite(
            "last carry, outputs or carries",
            subject.unrolled(of.point.cell, far, subject.start),
        )
        found = of.at(Point(of.point.cell, far, subject.start))
        _check_finite("a sum of sines of outputs, or its gradient", found[:2])


def _far(sign: int, leaf: np.ndarray) -> np.ndarray:
    return np.asarray(sign * EXTREME * np.sign(leaf), leaf.dtype)


def _check_finite(what: str, tree: Any) -> None:
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        bad = ~np.isfinite(np.asarray(leaf, np.float64))
        if bad.any():
            index = list(map(int, np.argwhere(bad)[0]))
            value = float(np.asarray(leaf, np.float64)[tuple(index)])
            raise Broken(f"{value} in {what}, at {jax.tree_util.keystr(path)}{index}")


def _in_type(subject: Subject, dtype: Any) -> float:
    """The cell with parameters, inputs and carry in another type."""
    if dtype == jnp.float64 and not jax.config.jax_enable_x64:  # type: ignore[attr-defined]
        raise NotApplicable("JAX is not set to compute in float64 (jax_enable_x64)")
    if not (isinstance(subject.given, nnx.Module) and hasattr(subject.owner, "param_dtype")):
        raise NotApplicable("the cell has no param_dtype")
    if getattr(subject.owner, "dtype", None) is not None:
        raise NotApplicable("the cell was built with a dtype of its own")
    cell, xs = _cast((subject.cell, subject.xs), dtype)
    cell = _with_attributes(cell, param_dtype=jnp.dtype(dtype))
    carry = None if subject.owns_start else _cast(subject.start, dtype)
    return _check_type(subject, cell, xs, carry, dtype)


def _is_right_in_float32(subject: Subject) -> float:
    return _in_type(subject, jnp.float32)


def _is_right_in_float64(subject: Subject) -> float:
    return _in_type(subject, jnp.float64)


def _is_right_in_bfloat16(subject: Subject) -> float:
    """Products in bfloat16: parameters stay as they are."""
    if not isinstance(subject.owner, RNNCell):
        raise NotApplicable("what dtype does to outputs is a rule of rnn_jax.RNNCell")
    if not subject.owns_start:
        raise NotApplicable("a carry was given, whose type the cell's dtype does not change")
    cell = _with_attributes(subject.cell, dtype=jnp.dtype(jnp.bfloat16))
    return _check_type(subject, cell, _cast(subject.xs, jnp.bfloat16), None, jnp.bfloat16)


def _check_type(subject: Subject, cell: Any, xs: Any, carry: Any, dtype: Any) -> float:
    start = resolve_step(cell, input_of_step(xs), carry).carry
    _, ys, _ = subject.unrolled(cell, xs, start)
    kinds = {str(leaf.dtype) for leaf in jax.tree.leaves(ys) if is_float(leaf)}
    name = jnp.dtype(dtype).name
    if kinds != {name}:
        raise Broken(f"outputs of {' and '.join(sorted(kinds))} against {name}")
    _check_finite("outputs", ys)
    _, exact, _ = subject.unrolled(subject.cell, subject.xs, subject.start)
    eps = max(float(jnp.finfo(dtype).eps), subject.eps)
    allowed = 20 * eps if eps > 1e-4 else eps ** (2 / 3)
    return subject.check_close(f"outputs in {name}", ys, exact, allowed=allowed)


def _cast(tree: Any, dtype: Any) -> Any:
    def cast(leaf: Any) -> Any:
        is_cast = hasattr(leaf, "dtype") and is_float(leaf)
        return jnp.asarray(np.asarray(leaf).astype(dtype)) if is_cast else leaf

    return jax.tree.map(cast, tree)


def _with_attributes(cell: Any, **values: Any) -> Any:
    """A copy of a module whose parts, where they have these attributes, have other values."""
    twin = nnx.clone(cell)
    for _, node in nnx.iter_graph(twin):
        for name, value in values.items():
            if isinstance(node, nnx.Module) and name in vars(node):
                setattr(node, name, value)
    return twin


LAWS = (
    Law(
        "extreme inputs",
        _is_finite_far_out,
        "outputs, carries and gradients are finite at inputs of ±1e4",
        "an exponential, a power or a quotient overflows, or 0 · ∞ in its derivative: use "
        "jax.nn.softplus and log_sigmoid, subtract the largest exponent, or guard both branches of "
        "jnp.where.",
    ),
    Law(
        "float32",
        _is_right_in_float32,
        "with float32 parameters and inputs the outputs are of float32, and right to rounding",
        "a constant of a fixed type promotes, or a sum cancels.",
    ),
    Law(
        "float64",
        _is_right_in_float64,
        "with float64 parameters and inputs the outputs are of float64",
        "a constant or a cast of a fixed type.",
    ),
    Law(
        "bfloat16",
        _is_right_in_bfloat16,
        "with dtype=bfloat16 the outputs are of bfloat16, and right to its rounding",
        "products are not cast to self.dtype, or the carry is made in another type.",
    ),
)
