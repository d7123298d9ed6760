"""What a cell tells of itself if its recurrence is linear in the carry for given inputs.

carry_t = Λ_t carry_{t−1} + b_t,    y_t = output(carry_t, z_t)

where Λ_t and b_t depend on the projected input z_t alone. Nothing in such a recurrence needs the
step before but the carry itself, so sequences can be run by an associative scan
(`unroll(..., method="associative")`, in `rnn_jax.sequence.running.associative`), and Λ_t is the
Jacobian ∂carry_t/∂carry_{t−1}, with no automatic differentiation (`linearize`).

A cell says so by a method `linear_form() -> LinearForm | None`, a claim in the sense of
`rnn_jax.cells.claims`: it holds for the class that makes it, a subclass with another step has none,
and the step remains the definition. A cell of one's own does it so:

    class Smoothing(nnx.Module):                       # h' = a ∘ h + (1 − a) ∘ x,  a = σ(rate)
        def __init__(self, features):
            self.rate = nnx.Param(jnp.linspace(0.0, 4.0, features))

        def initialize_carry(self, input_shape):
            return jnp.zeros(input_shape)

        def __call__(self, h, x):
            a, b = self.transition(x)
            return a * h + b, a * h + b                 # carry and output

        def transition(self, x):                       # of one input (I,) or of many (..., I)
            a = jnp.broadcast_to(jax.nn.sigmoid(self.rate[...]), x.shape)
            return a, (1 - a) * x

        def linear_form(self):
            return rj.LinearForm("diagonal", self.transition, contracts=True)

z is x itself, or `project(x)` in a cell of this package's base class. `rnn_jax.testing` and the
tests hold what is said against the Jacobian of the step.

The carry is packed into one array, whose trailing axes have a meaning that is the form's *kind*:

| kind       | packed carry | Λ           | Λ applied to v                                   |
|------------|--------------|-------------|--------------------------------------------------|
| "diagonal" | (..., *S)    | (..., *S)   | Λ ∘ v; an axis of Λ of size 1 is shared           |
| "complex"  | (..., 2, N)  | (..., 2, N) | product of complex numbers, [real, imaginary]     |
| "block"    | (..., n, k)  | (..., n, k, k) | n products with k × k matrices                 |
| "dense"    | (..., S)     | (..., S, S) | one product                                      |

Cells that are linear in part have no such form: the mLSTM, whose stabiliser m is a maximum (see
`rnn_jax.MLSTMCell`); the LMU, whose memory sees h; an orthogonal cell with biases, which are 0 only
until they are learnt.
"""

import functools
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from rnn_jax.arrays import type_of
from rnn_jax.cells.claims import claim, owner_of
from rnn_jax.cells.wrappers.noise import project_with
from rnn_jax.checks import check_choice

Carry = Any
Kind = Literal["diagonal", "complex", "block", "dense"]

KINDS: tuple[Kind, ...] = ("diagonal", "complex", "block", "dense")


def _carry_itself(carry: Carry, z: Any) -> Any:
    del z
    return carry


def _as_it_is(carry: Any) -> Any:
    return carry


class LinearForm(NamedTuple):
    """A cell as a recurrence that is linear in its carry; see `rnn_jax.cells.linear`.

    carry_t = Λ_t carry_{t−1} + b_t,    y_t = output(carry_t, z_t)

    Attributes:
      kind: of Λ: "diagonal", "complex", "block" or "dense"; the table in `rnn_jax.cells.linear`
        says what shapes each has.
      transition: z -> (Λ, b), of one step or of many that lead (..., ·), z being the projected
        input, or x where the cell has no projection. Λ has as many axes as the table says; an axis
        of size 1 is the same for all: one Λ for all steps is written down once.
      output: (carry after the step, z) -> y, of one step or of many; as it stands the carry.
      pack: carry -> the array that Λ is applied to; as it stands the carry, if that is one array.
      unpack: its inverse.
      contracts: whether no product of Λ's grows without bound whatever the weights, so that no
        product of many overflows where the carries themselves do not. Only then is an associative
        scan taken unasked.

    Example:
      >>> class Smoothing(nnx.Module):  # h' = a ∘ h + (1 − a) ∘ x
      ...     def initialize_carry(self, input_shape):
      ...         return jnp.zeros(input_shape)
      ...
      ...     def __call__(self, h, x):
      ...         a, b = self.transition(x)
      ...         return a * h + b, a * h + b
      ...
      ...     def transition(self, x):  # of one input (I,) or of many (..., I)
      ...         return jnp.full(x.shape, 0.9), 0.1 * x
      ...
      ...     def linear_form(self):
      ...         return rj.LinearForm("diagonal", self.transition, contracts=True)
      ...
      >>> _, ys = rj.unroll(Smoothing(), xs, method="associative")
      >>> bool(jnp.allclose(ys, rj.unroll(Smoothing(), xs, method="scan")[1], atol=1e-5))
      True
    """

    kind: Kind
    transition: Callable[[Any], tuple[jax.Array, jax.Array]]
    output: Callable[[Carry, Any], Any] = _carry_itself
    pack: Callable[[Carry], jax.Array] = _as_it_is
    unpack: Callable[[jax.Array], Carry] = _as_it_is
    contracts: bool = False


def linear_form(cell: Any) -> LinearForm | None:
    """The cell's `LinearForm`; None if it has none that holds for the mathematics it runs."""
    form = claim(cell, "linear_form")
    return None if form is None else form()


def linear_form_for(cell: Any, x: Any, carry: Carry) -> LinearForm | str:
    """The cell's `LinearForm`, checked against one step, or in words why there is none.

    Args:
      cell: any cell.
      x: one input, or its shape and type.
      carry: before a step, or shapes and types.

    Raises:
      ValueError: a form whose kind is none, or whose arrays have other shapes than its kind says.
    """
    form = linear_form(cell)
    name = type(owner_of(cell)).__name__
    if form is None:
        return f"{name} has no linear_form that holds for its step"
    check_choice("kind", form.kind, KINDS)

    def one_step(cell: Any, carry: Carry, x: Any) -> Any:
        form = linear_form(cell)
        assert form is not None
        z = jax.vmap(functools.partial(project_with, cell, noise=None))(x)
        return form.pack(carry), *form.transition(z)

    # As a sequence of one step: forms take leading axes.
    rows = jax.tree.map(_as_sequence_of_one, (carry, x))
    packed, factor, added = jax.eval_shape(one_step, cell, *rows)
    _check_shapes(name, form.kind, *(array.shape[1:] for array in (packed, factor, added)))
    types = {array.dtype for array in (packed, factor, added)}
    if len(types) > 1:
        names = ", ".join(sorted(str(kind) for kind in types))
        return f"the carry, Λ and b of {name} are of several types, {names}"
    return form


def row_matrix(kernel: jax.Array, z: jax.Array) -> jax.Array:
    """Λ of h' = h W + … for states in rows: Wᵀ, the same for all leading axes of z, in its type."""
    return kernel.T.astype(z.dtype).reshape((1,) * (z.ndim - 1) + kernel.T.shape)


def rounds_products(cell: Any) -> bool:
    """Whether a cell multiplies in another type than it keeps its carry in.

    What is said of it in terms of its weights then holds up to rounding only.
    """
    owner = owner_of(cell)
    kept = getattr(owner, "carry_dtype", None)
    if kept is None:
        return False
    return bool(kept != (getattr(owner, "dtype", None) or getattr(owner, "param_dtype", None)))


def apply(kind: Kind, factor: jax.Array, values: jax.Array) -> jax.Array:
    """Λ v, for any leading axes."""
    if kind == "diagonal":
        return factor * values
    if kind == "complex":
        return _times(factor, values)
    own = 2 if kind == "dense" else 3
    if all(size == 1 for size in factor.shape[:-own]):
        # One for all: written so that its gradient is one product, not a sum of as many as v has.
        factor = factor.reshape(factor.shape[-own:])
        equation = "ij,...j->...i" if kind == "dense" else "nij,...nj->...ni"
        return jnp.einsum(equation, factor, values)
    return jnp.einsum("...ij,...j->...i", factor, values)


def compose(kind: Kind, later: jax.Array, earlier: jax.Array) -> jax.Array:
    """Λ₂ Λ₁, for any leading axes."""
    if kind == "diagonal":
        return later * earlier
    if kind == "complex":
        return _times(later, earlier)
    return jnp.matmul(later, earlier)


def transposed(kind: Kind, factor: jax.Array) -> jax.Array:
    """Λᵀ, as of the real matrix that Λ is."""
    if kind == "diagonal":
        return factor
    if kind == "complex":  # The conjugate.
        real, imaginary = _parts(factor)
        return jnp.concatenate([real, -imaginary], axis=-2)
    return jnp.swapaxes(factor, -1, -2)


def identity_like(kind: Kind, factor: jax.Array) -> jax.Array:
    """The Λ that changes nothing, of the shape of another."""
    if kind == "diagonal":
        return jnp.ones_like(factor)
    if kind == "complex":
        real, imaginary = _parts(factor)
        return jnp.concatenate([jnp.ones_like(real), jnp.zeros_like(imaginary)], axis=-2)
    return jnp.broadcast_to(jnp.eye(factor.shape[-1], dtype=factor.dtype), factor.shape)


def state_jacobian_of(form: LinearForm, carry: Carry, z: Any) -> jax.Array:
    """∂carry'/∂carry of one step, (S, S) over the flattened carry, without differentiating it.

    Args:
      form: of the cell.
      carry: any carry, for its structure alone.
      z: the projected input of the step.
    """
    factor, _ = form.transition(z)
    flat, unravel = ravel_pytree(carry)

    def column(unit: jax.Array) -> jax.Array:
        moved = apply(form.kind, factor, form.pack(unravel(unit)))
        return ravel_pytree(form.unpack(moved))[0]

    return jax.vmap(column, out_axes=1)(jnp.eye(flat.size, dtype=flat.dtype))


def _as_sequence_of_one(leaf: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((1, *jnp.shape(leaf)), type_of(leaf))


def _check_shapes(
    name: str, kind: Kind, own: tuple[int, ...], factor: tuple[int, ...], added: tuple[int, ...]
) -> None:
    """Raises ValueError unless trailing axes are those of a kind; `own` is the packed carry's."""
    sizes = _sizes_of_factor(kind, own)
    fits = sizes is not None and len(sizes) == len(factor) and added == own
    if fits and all(size in allowed for size, allowed in zip(factor, sizes or [], strict=True)):
        return
    raise ValueError(
        f'a linear_form of kind "{kind}" must have, behind the leading axes of z, {_RULES[kind]}, '
        f"and b like the packed carry; got a packed carry {own}, Λ {factor} and b {added} from "
        f"{name}. Give Λ and b all leading axes of z, or axes of size 1 in their place."
    )


_RULES: dict[Kind, str] = {
    "diagonal": "Λ with the axes of the packed carry, or 1 where units share it",
    "complex": "a packed carry (2, N) and Λ (2, N), or (2, 1)",
    "block": "a packed carry (n, k) and Λ (n, k, k), or (1, k, k)",
    "dense": "a packed carry (S,) and Λ (S, S)",
}


def _sizes_of_factor(kind: Kind, own: tuple[int, ...]) -> list[tuple[int, ...]] | None:
    """What each trailing axis of Λ may be, for a packed carry; None if that is of another kind."""
    match kind, own:
        case "diagonal", _:
            return [(1, size) for size in own]
        case "complex", (2, size):
            return [(2,), (1, size)]
        case "block", (count, size):
            return [(1, count), (size,), (size,)]
        case "dense", (size,):
            return [(size,), (size,)]
    return None


def _parts(values: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(real, imaginary), each with an axis of size 1 before the last."""
    return values[..., :1, :], values[..., 1:, :]


def _times(one: jax.Array, other: jax.Array) -> jax.Array:
    a, b = _parts(one)
    c, d = _parts(other)
    return jnp.concatenate([a * c - b * d, a * d + b * c], axis=-2)
