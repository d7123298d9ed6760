"""Laws of claims: what a cell tells of itself holds for the step that it runs."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core

from rnn_jax.cells.asking import part_names
from rnn_jax.cells.claims import claim
from rnn_jax.cells.linear import LinearForm, apply, linear_form, state_jacobian_of
from rnn_jax.cells.stages import (
    advance_step,
    coefficients_of,
    products_at,
    states_seen,
    tangent_step,
)
from rnn_jax.cells.structure import FusedForm, fused_form
from rnn_jax.cells.wrappers.noise import project_with
from rnn_jax.testing.law import Broken, Law, NotApplicable
from rnn_jax.testing.subject import Carry, Subject, own_jacobians


def _claimed(subject: Subject, name: str) -> Any:
    found = claim(subject.cell, name)
    if found is None:
        raise NotApplicable(f"the cell does not claim {name}")
    return found


def _mapped(function: Callable[[Any, Carry, Any], Any]) -> Callable[..., Any]:
    """function(cell, carry, x) for many points, compiled."""
    mapped: Callable[..., Any] = jax.jit(jax.vmap(function, in_axes=(None, 0, 0)))
    return mapped


def _at_points(subject: Subject, function: Callable[[Any, Carry, Any], Any]) -> Any:
    """function(cell, carry, x) at each point."""
    return _mapped(function)(subject.cell, *subject.points)


def _after(subject: Subject) -> Any:
    """The carries after each step, by the cell's own call."""
    return jax.tree.map(lambda leaf: leaf[1:], subject.path[0])


def _has_its_fused_form(subject: Subject) -> float:
    """The form advances as the step does, and its tangent is the derivative of that."""

    def advanced(cell: Any, carry: Carry, x: Any) -> Any:
        form = fused_form(cell)
        if form is None:
            raise NotApplicable("the cell does not claim fused_form")
        hash(form.mathematics)
        return step_of_form(form, carry, x)

    after, hidden, tangent, exact = _at_points(subject, advanced)
    expected = _after(subject), subject.path[1]
    size = subject.check_close("(carry, y) of the fused form", (after, hidden), expected)
    return max(size, subject.check_close("the tangent of the fused form", tangent, exact))


def step_of_form(form: FusedForm, carry: Carry, x: jax.Array) -> tuple[Any, ...]:
    """One step of a fused form, and its tangent along all that it depends on.

    Returns:
      (the carry after it, the output, the tangent of the carry, what automatic differentiation of
      the step says of that tangent).
    """
    mathematics, kernels, _ = form

    def advanced(carry: Carry, x: jax.Array, kernels: Any) -> tuple[Carry, Any]:
        at = products_at(form._replace(kernels=kernels), x)
        return advance_step(mathematics, carry, at)

    after, saved = advanced(carry, x, kernels)
    point = (carry, x, kernels)
    along = jax.tree.map(
        lambda a: jnp.cos(jnp.arange(a.size, dtype=a.dtype)).reshape(a.shape), point
    )
    d_carry, d_x, d_kernels = along
    states = states_seen(mathematics, carry, saved)
    by_input = products_at(form, d_x)
    by_kernel = products_at(form._replace(kernels=d_kernels), x)

    def products(k: int, d_h: jax.Array | None) -> jax.Array:
        return by_input(k, d_h) - kernels[k][-1] + by_kernel(k, states[k])

    coefficients = coefficients_of(mathematics, carry, saved)
    tangent = tangent_step(mathematics, coefficients, d_carry, products)
    _, exact = jax.jvp(lambda *point: advanced(*point)[0], point, along)
    return after, mathematics.hidden(after), tangent, exact


def _has_its_linear_form(subject: Subject) -> float:
    """Λ is the Jacobian, Λ carry + b the step, one step as many at once."""
    form = linear_form(subject.cell)
    if form is None:
        raise NotApplicable("the cell does not claim linear_form")

    def at(cell: Any, carry: Carry, x: Any) -> Any:
        form = linear_form(cell)
        assert form is not None
        z = project_with(cell, x, None)
        factor, b = form.transition(z)
        after = form.unpack(apply(form.kind, factor, form.pack(carry)) + b)
        return state_jacobian_of(form, carry, z), after, form.output(after, z), z

    jacobians, after, ys, zs = _at_points(subject, at)
    size = subject.check_close("∂carry'/∂carry of the linear form", jacobians, subject.jacobians)
    expected = _after(subject), subject.path[1]
    size = max(size, subject.check_close("(carry, y) of the linear form", (after, ys), expected))
    factors, found = _many_at_once(subject.cell, subject.points[0], zs)
    size = max(size, subject.check_close("(carry, y) of many steps at once", found, expected))
    if form.contracts:
        _check_contracts(subject, form, factors)
    return size


@jax.jit
def _many_at_once(cell: Any, carries: Carry, zs: Any) -> tuple[jax.Array, tuple[Carry, Any]]:
    """(Λ, (the carry after, y)) of many steps by a linear form that is given all of them."""
    form = linear_form(cell)
    assert form is not None
    factors, bs = form.transition(zs)
    after = form.unpack(apply(form.kind, factors, form.pack(carries)) + bs)
    return factors, (after, form.output(after, zs))


def _check_contracts(subject: Subject, form: LinearForm, factors: jax.Array) -> None:
    values = np.asarray(factors, float)
    if form.kind == "complex":
        sizes = np.hypot(values[..., 0, :], values[..., 1, :])
    elif form.kind == "diagonal":
        sizes = np.abs(values)
    else:
        sizes = np.abs(np.linalg.eigvals(values))
    if np.max(sizes) > 1 + subject.tolerance:
        raise Broken(f"a form that says it contracts, with a factor of size {np.max(sizes):.6g}")


def _has_its_diagonal_part(subject: Subject) -> float:
    part = _claimed(subject, "diagonal_part")
    places = _places(subject)
    if part not in places:
        raise Broken(f"diagonal_part {part!r} against the parts {', '.join(places)}")
    blocks = [subject.jacobians[:, rows, places[part]] for rows in places.values()]
    diagonals = [block * np.eye(block.shape[1], block.shape[2]) for block in blocks]
    return subject.check_close(f"∂carry'/∂{part}, off its diagonal", blocks, diagonals)


def _has_its_slopes(subject: Subject) -> float:
    _claimed(subject, "slopes")
    if claim(subject.cell, "slopes")(*subject.at(0)) is None:
        raise NotApplicable("the cell has no slopes: its activation mixes units")
    found = _at_points(subject, lambda cell, carry, x: claim(cell, "slopes")(carry, x))
    kernel = np.asarray(subject.cell.recurrent_kernel[...])
    expected = np.asarray(found)[:, :, None] * kernel.T
    return subject.check_close("∂carry'/∂carry", subject.jacobians, expected)


def _has_its_memory_path(subject: Subject) -> float:
    """With what mixes units set to 0, the path is all that hands a part on."""
    _claimed(subject, "memory_path")

    def cleared(path: Any, leaf: Any) -> Any:
        names = jax.tree_util.keystr(path)
        mixes = "recurrent" in names or "peephole" in names
        return jnp.asarray(np.zeros(leaf.shape, leaf.dtype)) if mixes else leaf

    bare = jax.tree_util.tree_map_with_path(cleared, subject.cell)
    path = jax.jit(jax.vmap(lambda carry, x: claim(bare, "memory_path")(carry, x)))
    found = path(*subject.points)
    if not found:
        raise Broken("a memory path without a part")
    jacobians = np.asarray(own_jacobians(bare, *subject.points))
    places, worst = _places(subject), 0.0
    for part, factor in found.items():
        if part not in places:
            raise Broken(f"a path of {part!r} against the parts {', '.join(places)}")
        block = jacobians[:, places[part], places[part]]
        values = np.asarray(factor).reshape(subject.steps, -1)
        expected = values[:, :, None] * np.eye(values.shape[1])
        what = f"∂{part}'/∂{part} without recurrent weights"
        worst = max(worst, subject.check_close(what, block, expected))
    return worst


def _has_its_bound(subject: Subject) -> None:
    slope, kernel = _claimed(subject, "jacobian_bound")()
    bound = float(slope) * np.linalg.norm(np.asarray(kernel), 2)
    largest = max(np.linalg.norm(a, 2) for a in subject.jacobians)
    if largest > bound * (1 + subject.tolerance):
        raise Broken(f"a Jacobian of norm {largest:.6g} against a bound of {bound:.6g}")


@_mapped
def _gates(cell: Any, carry: Carry, x: Any) -> Any:
    return claim(cell, "gates")(carry, x)


def _has_its_gates(subject: Subject) -> float:
    """Each gate is a value that the step computes, or 1 less it, and obeys its own bias."""
    _claimed(subject, "gates")
    gates = _gates(subject.cell, *subject.points)
    if not gates:
        raise Broken("no gate")
    values = _values_within_the_step(subject)
    worst = 0.0
    for name, gate in gates.items():
        found = np.asarray(gate, float).reshape(subject.steps, -1)
        if not ((found >= -subject.tolerance) & (found <= 1 + subject.tolerance)).all():
            raise Broken(f"gate {name!r} between {found.min():.6g} and {found.max():.6g}")
        alike = [value for value in values if value.shape == found.shape]
        sizes = [np.max(np.abs(v - found)) for a in alike for v in (a, 1 - a)]
        apart = float(min(sizes, default=np.inf))
        if not apart <= subject.tolerance:
            raise Broken(
                f"gate {name!r}, which is none of the values that the step computes, such as "
                f"{found[0, 0]:.6g} in its first unit",
                apart,
                subject.tolerance,
            )
        worst = max(worst, apart)
    _check_gates_obey_their_bias(subject, gates)
    return worst


def _values_within_the_step(subject: Subject) -> list[np.ndarray]:
    """All arrays that cell(carry, x) computes on its way, flattened, by point (T, ·)."""
    carry, x = subject.at(0)
    with jax.disable_jit():  # So that functions compiled within the step are taken apart, too.
        program = jax.make_jaxpr(lambda cell, carry, x: cell(carry, x))(subject.cell, carry, x)
    inner = program.jaxpr
    kept = [
        variable
        for equation in inner.eqns
        for variable in equation.outvars
        if not isinstance(variable, core.DropVar)
    ]
    every = core.jaxpr_as_fun(core.ClosedJaxpr(inner.replace(outvars=kept), program.consts))

    def values(cell: Any, carry: Carry, x: Any) -> list[jax.Array]:
        found = every(*jax.tree.leaves((cell, carry, x)))
        return [jnp.ravel(v) for v in found if jnp.issubdtype(v.dtype, jnp.floating)]

    return [np.asarray(value, float) for value in _at_points(subject, values)]


def _check_gates_obey_their_bias(subject: Subject, gates: dict[str, Any]) -> None:
    """Where a bias lies block by block, that of a gate's own block moves the gate."""
    owner = subject.owner
    names, bias = tuple(getattr(owner, "blocks", ())), getattr(owner, "bias", None)
    shape = tuple(getattr(bias, "shape", ()))
    own = [name for name in gates if name in names]
    if not own or len(shape) != 1 or shape[0] != len(names) * owner.hidden_features:
        return
    for name in own:
        after = [_gate_with_bias(subject, name, by) for by in (20.0, -20.0)]
        if all(np.array_equal(gate, np.asarray(gates[name], float)) for gate in after):
            raise Broken(f"gate {name!r}, which the bias of block {name!r} does not move")


def _gate_with_bias(subject: Subject, name: str, by: float) -> np.ndarray:
    """A gate at all points, something being added to the bias of its block."""
    owner = subject.owner
    own = np.repeat([block == name for block in owner.blocks], owner.hidden_features)

    def moved(path: Any, leaf: Any) -> Any:
        is_bias = jax.tree_util.keystr(path, simple=True, separator=".") in ("bias", "bias.value")
        return leaf + jnp.asarray(by * own, leaf.dtype) if is_bias else leaf

    other = jax.tree_util.tree_map_with_path(moved, subject.cell)
    return np.asarray(_gates(other, *subject.points)[name], float)


def _places(subject: Subject) -> dict[str, slice]:
    """Where each part of the carry lies in the flattened one."""
    places, start = {}, 0
    leaves = jax.tree.leaves(subject.carry)
    for name, leaf in zip(part_names(subject.cell, subject.carry), leaves, strict=True):
        places[name] = slice(start, start + leaf.size)
        start += leaf.size
    return places


LAWS = (
    Law(
        "fused form",
        _has_its_fused_form,
        "fused_form advances as the step does, and its tangent is the derivative of that",
        "a bias that is left out of the kernels, blocks in another order, or a term missing in "
        "tangent.",
    ),
    Law(
        "linear form",
        _has_its_linear_form,
        "Λ of linear_form is ∂carry'/∂carry, Λ carry + b the next carry, and output its y",
        "Λ or b depend on the carry, pack and unpack are not inverse, or transition and output "
        "mix steps when they are given many.",
    ),
    Law(
        "diagonal part",
        _has_its_diagonal_part,
        "a unit of diagonal_part acts on the same unit alone, in every part of the carry",
        "a matrix, a mean or a norm mixes the units of that part.",
    ),
    Law(
        "slopes",
        _has_its_slopes,
        "∂carry'/∂carry is diag(slopes) W_hᵀ",
        "the slopes are of another activation, or the state is mixed in beside it.",
    ),
    Law(
        "memory path",
        _has_its_memory_path,
        "without weights that mix units (recurrent… or peephole… by name) memory_path is all that "
        "hands a part of the carry on",
        "the factor is of another gate, or weights that mix units have other names.",
    ),
    Law(
        "Jacobian bound",
        _has_its_bound,
        "no ∂carry'/∂carry has a norm above that of jacobian_bound",
        "the bound leaves out a path from carry to carry.",
    ),
    Law(
        "gates",
        _has_its_gates,
        "gates are values in [0, 1] that the step computes, each under the name of its block",
        "gates computes pre-activations otherwise than the step does, or names them in another "
        "order than blocks.",
    ),
)
