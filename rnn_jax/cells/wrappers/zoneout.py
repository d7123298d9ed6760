"""Zoneout: units that keep their previous value at random."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from rnn_jax.arrays import promote
from rnn_jax.cells.asking import carry_form, part_names, part_that_is_output
from rnn_jax.cells.cell import Carry
from rnn_jax.cells.claims import claim
from rnn_jax.cells.wrappers.noise import (
    Noise,
    draw_noise,
    drawn_by_step,
    project_with,
    rates_by_part,
    step_with,
)
from rnn_jax.cells.wrappers.wrapper import ByName, CellWrapper


class Zoneout(CellWrapper):
    """A cell whose units keep their previous value with some probability at each step.

    m_t = d_t ∘ m_{t−1} + (1 − d_t) ∘ m̃_t,    d_t ~ Bernoulli(rate)

    for each part m of the carry, m̃_t being what the cell would have made of it. That takes a key,
    `unroll(cell, xs, key=key)`. Without one, as in evaluation and in the instrument, d_t is its
    expectation: m_t = rate · m_{t−1} + (1 − rate) · m̃_t.

    The output is the new h, or of another cell whose step returns a part of its carry as its
    output, that part after the mixing. Any other output is what the cell makes of carry_{t−1}, x_t.

    Args:
      cell: any cell with an initial carry, plain or wrapped, that says how many features it takes;
        see `rnn_jax.as_cell`.
      rate: in [0, 1): one number for all parts of the carry; or one by part, as in
        {"c": 0.5, "h": 0.05}, where a part that is not named has rate 0 (the parts of a cell
        without `carry_parts` are called as their paths in the carry); or numbers in the structure
        of the carry, as in (0.5, 0.05).

    Attributes:
      rates: the rate of each part, in the order of the carry's leaves.

    Raises:
      ValueError: a rate outside [0, 1), a part that the carry does not have, or another structure.
      TypeError: a rate that is no number, one for a part that holds no floats, no cell with an
        initial carry, or one that does not say its features.

    Example:
      >>> zoneout = rj.Zoneout(cell, 0.5)
      >>> _, ys = rj.unroll(zoneout, xs, key=jax.random.key(0))
      >>> bool(0.3 < (ys[1:] == ys[:-1]).mean() < 0.7)  # about half of the units stay
      True

    References:
      D. Krueger et al., "Zoneout: regularizing RNNs by randomly preserving hidden activations",
      2017.
    """

    def __init__(self, cell: Any, rate: Any):
        super().__init__(cell)
        form = carry_form(self.cell, "Zoneout")
        self.rates = rates_by_part("rate", rate, form, part_names(self.cell, form))

    def step(self, carry: Carry, z: Any) -> tuple[Carry, Any]:
        """One step with the expected update; see `RNNCell.step`."""
        return self._mix(carry, step_and_output(self.cell, carry, z, None), None)

    def noise(self, key: jax.Array, steps: int) -> Noise:
        """(the inner cell's noise, for each part which units keep their value, (T, ...))."""
        of_cell, own = jax.random.split(key)
        shapes = [part.shape for part in jax.tree.leaves(carry_form(self.cell, "Zoneout"))]
        keeps = drawn_by_step(own, self.rates, steps, shapes)
        return draw_noise(self.cell, of_cell, steps), keeps

    def noisy_project(self, x: jax.Array, noise: Noise) -> Any:
        """All that depends on the input and the inner cell's noise alone."""
        return project_with(self.cell, x, noise[0])

    def noisy_step(self, carry: Carry, z: Any, noise: Noise) -> tuple[Carry, Any]:
        """One step in which some units keep their value; see `rnn_jax.cells.wrappers.noise`."""
        of_cell, keeps = noise
        return self._mix(carry, step_and_output(self.cell, carry, z, of_cell), keeps)

    @property
    def gates(self) -> ByName:
        """The gates of the inner cell, whose step is mixed with the carry; absent without any."""
        return self._claim_of_cell("gates")

    def memory_path(self, carry: Carry, x: jax.Array) -> dict[str, jax.Array]:
        """The factors by which parts of the carry are handed on by themselves, on expectation.

        rate + (1 − rate) · f    where the cell itself hands a part on by f (0 where it does not)

        Args:
          carry: the state before the step; each part (..., H).
          x: the input, (..., I).

        Returns:
          By part, (..., H); parts that have neither a rate nor a path are absent.
        """
        of_cell = claim(self.cell, "memory_path")
        inner = {} if of_cell is None else of_cell(carry, x)
        path = {}
        for name, rate, part in zip(
            part_names(self.cell, carry), self.rates, jax.tree.leaves(carry), strict=True
        ):
            if name in inner:
                path[name] = rate + (1 - rate) * inner[name]
            elif rate:
                path[name] = jnp.full_like(part, rate)
        return path

    def _mix(
        self, before: Carry, made: "Made", keeps: tuple[jax.Array | None, ...] | None
    ) -> tuple[Carry, Any]:
        """(the carry between old and new, the output); without `keeps` by expectation."""
        after, y, part = made
        olds, (news, structure) = jax.tree.leaves(before), jax.tree.flatten(after)
        parts = []
        for k, (rate, old, new) in enumerate(zip(self.rates, olds, news, strict=True)):
            keep = None if keeps is None else keeps[k]
            if not rate:
                parts.append(new)
                continue
            old, new = promote(old, new)
            if keep is None:
                parts.append(rate * old + (1 - rate) * new)
            else:
                parts.append(jnp.where(jnp.broadcast_to(keep, new.shape), old, new))
        return jax.tree.unflatten(structure, parts), y if part is None else parts[part]


class Made(NamedTuple):
    """What a cell makes of a step: the carry, y, and which leaf of the carry y is, if it is one."""

    after: Carry
    output: Any
    part: int | None


def step_and_output(cell: Any, carry: Carry, z: Any, noise: Noise) -> Made:
    """One step of a cell, and where in the carry its output stands."""
    after, y = step_with(cell, carry, z, noise)
    leaves = jax.tree.leaves(after)
    same = next((k for k, leaf in enumerate(leaves) if leaf is y), None)
    if same is None and jax.tree_util.treedef_is_leaf(jax.tree.structure(y)):
        # A jitted step returns what is one array as two, which its program tells.
        program = jax.make_jaxpr(step_with)(cell, carry, z, noise)
        same = part_that_is_output(program, len(leaves))
    return Made(after, y, same)
