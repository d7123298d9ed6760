"""A claim beside its measurement, and the network that it is measured on."""

import functools
from dataclasses import dataclass
from typing import Any, Literal

import jax
import numpy as np

import rnn_jax as rj

Array = np.ndarray
Relation = Literal["equal", "at most", "at least"]

# Nats. Rounding of float64 over some hundred steps stays far below it.
ROUNDING = 1e-8


@dataclass(frozen=True)
class Claim:
    """A statement about gradients as two curves: what it says they are, and what they are.

    Attributes:
      cell: the class's name.
      setting: options that are not the class's own, in words; empty if there are none.
      name: what is measured, in a few words.
      says: the statement.
      source: whose it is.
      basis: where the expected curve is from: "paper", a formula of the source; "derived", from the
        cell's equations by the source's argument; "criterion", a threshold of this experiment for
        what the source says in words.
      relation: how measured values must lie to expected ones.
      along: what both curves run along.
      expected, measured: (n,).
      tolerance: by how much the relation may be missed, in the curves' unit.
      unit: of both curves.
      first: the number of the first entry of both curves, in the words of `along`.
    """

    cell: str
    setting: str
    name: str
    says: str
    source: str
    basis: Literal["paper", "derived", "criterion"]
    relation: Relation
    along: str
    expected: Array
    measured: Array
    tolerance: float = ROUNDING
    unit: str = "nats"
    first: int = 1

    @property
    def distance(self) -> Array:
        """How far each measured value lies on the wrong side; negative on the right side."""
        same = self.measured == self.expected  # Infinities too.
        with np.errstate(invalid="ignore"):
            above = np.where(same, 0.0, self.measured - self.expected)
        if self.relation == "equal":
            return np.abs(above)
        return above if self.relation == "at most" else -above

    @property
    def excess(self) -> float:
        """The largest distance, NaN if anything is."""
        return float(np.max(self.distance))

    @property
    def holds(self) -> bool:
        """Whether the measurement bears the claim out; what is not finite does not."""
        return self.excess <= self.tolerance

    @property
    def finding(self) -> str:
        """What was measured, in a few words."""
        if self.relation == "equal":
            return f"{'equal' if self.holds else 'differs'} to {self.excess:.1g}"
        side = "below" if self.relation == "at most" else "above"
        if self.holds:
            near, far = (max(0.0, -float(of(self.distance))) for of in (np.max, np.min))
            return f"{near:.2g} to {far:.3g} {self.unit} {side}"
        beyond = ~(self.distance <= self.tolerance)
        start, stop = np.flatnonzero(beyond)[[0, -1]] + self.first
        return f"missed by up to {self.excess:.3g} {self.unit}, {self.along} {start} to {stop}"


class Trial:
    """One cell along one sequence, linearized once for all claims about it."""

    def __init__(self, cell: Any, xs: jax.Array, setting: str = "", name: str | None = None):
        self.cell, self.xs, self.setting = cell, xs, setting
        self.name = name or type(cell).__name__

    @functools.cached_property
    def lin(self) -> rj.Linearization:
        """The trajectory and its Jacobians."""
        return rj.linearize(self.cell, self.xs)

    @property
    def steps(self) -> int:
        """T."""
        return int(self.xs.shape[0])

    @functools.cached_property
    def jacobians(self) -> Array:
        """∂carry_t/∂carry_{t−1}, (T, S, S)."""
        return np.asarray(self.lin.state_jacobians)

    @functools.cached_property
    def log_singular_values(self) -> Array:
        """ln σ_i of ∂carry_T/∂carry_0, descending, (S,)."""
        return np.asarray(rj.jacobian_log_singular_values(self.lin))

    @functools.cached_property
    def log_norms(self) -> Array:
        """ln‖∂carry_T/∂carry_{T−k}‖₂ by lag k from 0 on, (T,)."""
        row = rj.jacobian_log_norms(self.lin, wrt="state", norm="spectral", targets=[-1])
        return np.asarray(row)[0, ::-1]

    @functools.cached_property
    def largest_row_sums(self) -> Array:
        """The largest ln‖∂carry_t/∂carry_{t−k}‖_∞ of all pairs of steps by lag k from 1 on, (T,).

        The papers on oscillators bound this norm, the largest sum over |entries| of a row.
        """
        size = self.jacobians.shape[-1]
        products, logs = np.empty_like(self.jacobians), np.zeros(self.steps)
        largest = np.full(self.steps, -np.inf)
        for t, jacobian in enumerate(self.jacobians):
            products[t] = np.eye(size)
            products[: t + 1] = jacobian @ products[: t + 1]
            norms = np.abs(products[: t + 1]).sum(axis=2).max(axis=1)
            # Kept near 1 beside the logarithm of what was taken out.
            products[: t + 1] /= np.where(norms > 0, norms, 1.0)[:, None, None]
            with np.errstate(divide="ignore"):
                logs[: t + 1] += np.log(norms)
            largest[: t + 1] = np.maximum(largest[: t + 1], logs[t::-1])
        return largest

    def weight(self, name: str) -> Array:
        """A parameter of the cell."""
        return np.asarray(getattr(self.cell, name)[...])
