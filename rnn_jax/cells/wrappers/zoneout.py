"""Zoneout: units that keep their previous value at random."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from rnn_jax.cells.cell import Carry, RNNCell, promote
from rnn_jax.cells.claims import claim
from rnn_jax.cells.wrappers.noise import Noise, draw_noise, drawn_by_step, project_with, step_with
from rnn_jax.cells.wrappers.wrapper import ByName, CellWrapper
from rnn_jax.checks import check_rate


class Zoneout(CellWrapper):
    """A cell whose units keep their previous value with some probability at each step.

    m_t = d_t ∘ m_{t−1} + (1 − d_t) ∘ m̃_t,    d_t ~ Bernoulli(rate)

    for each part m of the carry, m̃_t being what the cell would have made of it; the output is the
    new h. That takes a key, `unroll(cell, xs, key=key)`. Without one, as in evaluation and in the
    instrument, d_t is its expectation: m_t = rate · m_{t−1} + (1 − rate) · m̃_t.

    Args:
      cell: a cell of this package, or one that is wrapped already.
      rate: in [0, 1): one number for all parts of the carry, or one by part, as in
        {"c": 0.5, "h": 0.05}; a part that is not named has rate 0.

    Attributes:
      rates: the rate of each part, in the order of `carry_parts`.

    Raises:
      ValueError: a rate outside [0, 1), a part that the carry does not have, or a cell whose carry
        has no part h.
      TypeError: a rate that is no number, or a cell that is none of this package's.

    References:
      D. Krueger et al., "Zoneout: regularizing RNNs by randomly preserving hidden activations",
      2017.
    """

    def __init__(self, cell: RNNCell | CellWrapper, rate: float | Mapping[str, float]):
        super().__init__(cell)
        self.rates = _rates_by_part(rate, self.carry_parts)
        if "h" not in self.carry_parts:
            raise ValueError(
                "Zoneout needs a cell whose output is the part h of its carry; got "
                f"{type(cell).__name__} with {', '.join(self.carry_parts)}. Use another cell."
            )

    def step(self, carry: Carry, z: Any) -> tuple[Carry, jax.Array]:
        """One step with the expected update; see `RNNCell.step`."""
        return self._mix(carry, step_with(self.cell, carry, z, None)[0], None)

    def noise(self, key: jax.Array, steps: int) -> Noise:
        """(the inner cell's noise, for each part which units keep their value, (T, H))."""
        of_cell, own = jax.random.split(key)
        rates = tuple(rate for rate in self.rates if rate)
        drawn = drawn_by_step(own, rates, steps, self.hidden_features) if rates else []
        keeps = tuple(drawn.pop(0) if rate else None for rate in self.rates)
        return draw_noise(self.cell, of_cell, steps), keeps

    def noisy_project(self, x: jax.Array, noise: Noise) -> Any:
        """All that depends on the input and the inner cell's noise alone."""
        return project_with(self.cell, x, noise[0])

    def noisy_step(self, carry: Carry, z: Any, noise: Noise) -> tuple[Carry, jax.Array]:
        """One step in which some units keep their value; see `rnn_jax.cells.wrappers.noise`."""
        of_cell, keeps = noise
        return self._mix(carry, step_with(self.cell, carry, z, of_cell)[0], keeps)

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
            self.carry_parts, self.rates, jax.tree.leaves(carry), strict=True
        ):
            if name in inner:
                path[name] = rate + (1 - rate) * inner[name]
            elif rate:
                path[name] = jnp.full_like(part, rate)
        return path

    def _mix(
        self, before: Carry, after: Carry, keeps: tuple[jax.Array | None, ...] | None
    ) -> tuple[Carry, jax.Array]:
        """(the carry between old and new, its part h); without `keeps` by expectation."""
        olds, (news, structure) = jax.tree.leaves(before), jax.tree.flatten(after)
        parts = []
        for k, (rate, old, new) in enumerate(zip(self.rates, olds, news, strict=True)):
            keep = None if keeps is None else keeps[k]
            old, new = promote(old, new)
            if not rate:
                parts.append(new)
            elif keep is None:
                parts.append(rate * old + (1 - rate) * new)
            else:
                parts.append(jnp.where(keep, old, new))
        return jax.tree.unflatten(structure, parts), parts[self.carry_parts.index("h")]


def _rates_by_part(rate: Any, parts: tuple[str, ...]) -> tuple[float, ...]:
    """The rate of each part, checked."""
    if not isinstance(rate, Mapping):
        return (check_rate("rate", rate),) * len(parts)
    unknown = [name for name in rate if name not in parts]
    if unknown:
        raise ValueError(
            f"rate must name parts of the cell's carry, {', '.join(map(repr, parts))}; got "
            f"{unknown[0]!r}. Pass one number for all parts, or name these."
        )
    return tuple(check_rate(f"rate[{part!r}]", rate.get(part, 0.0)) for part in parts)
