"""Every claim that is made, held against the Jacobian of the cell's own call."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from claiming import (
    CLOSE,
    IN,
    WRAPPERS,
    XS,
    H,
    assert_linear_form_is_the_step,
    built,
    claims_of,
    jacobian,
    random_carry,
)
from forms import assert_form_is_the_step

import rnn_jax as rj
import zoo
from rnn_jax.cells.claims import claim
from rnn_jax.cells.wrappers.wrapper import CellWrapper

# Wrappers ask a cell for what it says, whatever its equations: one cell of each set of claims.
IN_WRAPPERS = ("simple_tanh", "simple_identity", "lstm", "lstm_peephole", "gru_reset_after")
EVERY_CLAIM = [
    (name, wrap, said)
    for wrap in WRAPPERS
    for name in (zoo.CELLS if wrap == "plain" else IN_WRAPPERS)
    for said in sorted(claims_of(built(name, wrap)))
]


@functools.cache
def case(name, wrap):
    """A cell, a carry and an input, and the Jacobian there."""
    cell = built(name, wrap)
    carry, x = random_carry(cell), XS[0]
    return cell, carry, x, np.asarray(jacobian(cell, carry, x))


def part_rows(cell):
    start, rows = 0, {}
    for name, leaf in zip(
        cell.carry_parts, jax.tree.leaves(cell.initialize_carry((IN,))), strict=True
    ):
        rows[name] = slice(start, start + leaf.size)
        start += leaf.size
    return rows


def without_recurrent_weights(cell):
    """The cell with all that mixes units set to 0."""

    def cleared(path, leaf):
        names = jax.tree_util.keystr(path)
        return 0 * leaf if "recurrent_kernel" in names or "peephole" in names else leaf

    return jax.tree_util.tree_map_with_path(cleared, cell)


def assert_gates_are_those_of_the_step(cell, gates, carry, x):
    """What a gate multiplies, solved for from the inner cell's step, is what can stand there."""
    if isinstance(cell, rj.StackedCell):
        gates = {n.removeprefix("0."): gate for n, gate in gates.items() if n.startswith("0.")}
        cell, carry = cell.cells[0], carry[0]
    while isinstance(cell, CellWrapper):
        cell = cell.cell
    after, y = cell(carry, x)
    match cell:
        case rj.LSTMCell():
            assert set(gates) == set(cell.blocks) - {"candidate"} | {"input"}
            m = gates["output"] * jnp.tanh(after[0])
            h = m if cell.projection_kernel is None else m @ cell.projection_kernel[...]
            np.testing.assert_allclose(h, y, **CLOSE)
            candidate = (after[0] - gates.get("forget", 1.0) * carry[0]) / gates["input"]
            z = cell.project(x) + carry[1] @ cell.recurrent_kernel[...]
            known = jnp.split(z, len(cell.blocks))[cell.blocks.index("candidate")]
            np.testing.assert_allclose(candidate, jnp.tanh(known), **CLOSE)
        case rj.GRUCell():
            candidate = (after - gates["update"] * carry) / (1 - gates["update"])
            w, b = cell.recurrent_kernel[...][:, 2 * H :], cell.candidate_recurrent_bias
            reset = gates["reset"]
            term = (reset * carry) @ w if b is None else reset * (carry @ w + b[...])
            known = cell.project(x)[2 * H :] + term
            np.testing.assert_allclose(candidate, jnp.tanh(known), **CLOSE)
        case _:
            assert not gates


@pytest.mark.parametrize(("name", "wrap", "said"), EVERY_CLAIM)
def test_what_is_claimed_is_true_of_the_cells_own_jacobian(name, wrap, said):
    cell, carry, x, a = case(name, wrap)
    rows, found = part_rows(cell), claim(cell, said)
    match said:
        case "slopes":
            kernel = np.asarray(cell.recurrent_kernel[...])
            np.testing.assert_allclose(a, found(carry, x)[:, None] * kernel.T, **CLOSE)
        case "jacobian_bound":
            slope, kernel = found()
            assert np.linalg.norm(a, 2) <= slope * np.linalg.norm(kernel, 2) * (1 + 1e-12)
        case "diagonal_part":
            for to in rows.values():
                block = a[to, rows[found]]
                np.testing.assert_array_equal(block, np.diag(np.diag(block)))
        case "memory_path":
            bare = without_recurrent_weights(cell)
            a = np.asarray(jacobian(bare, carry, x))
            for part, factor in claim(bare, said)(carry, x).items():
                np.testing.assert_allclose(a[rows[part], rows[part]], np.diag(factor), **CLOSE)
        case "gates":
            assert_gates_are_those_of_the_step(cell, found(carry, x), carry, x)
        case "fused_form":
            assert_form_is_the_step(cell, carry, x, **CLOSE)
        case "linear_form":
            assert_linear_form_is_the_step(cell, carry, x)
        case _:
            raise AssertionError(f"no law holds {said}: write one")
