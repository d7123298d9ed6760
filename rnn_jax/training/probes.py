"""What is measured of a network while it learns, inside the compiled loop."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp

from rnn_jax.cells.asking import as_pytree
from rnn_jax.cells.claims import owner_of
from rnn_jax.checks import check_choice, check_count, check_number, check_size, kind_of
from rnn_jax.gradients.explain.attribution import along_trajectory
from rnn_jax.gradients.explain.flow import GradientFlow
from rnn_jax.gradients.jacobians.log_norms import jacobian_log_norms
from rnn_jax.gradients.linearize import Problem, Record, accept, sizes_of
from rnn_jax.gradients.precision import compiled
from rnn_jax.gradients.spectra.lyapunov import lyapunov_exponents
from rnn_jax.sequence.bidirectional import Bidirectional
from rnn_jax.sequence.calling import describe
from rnn_jax.sequence.model import SequenceModel
from rnn_jax.sequence.stack import StackedCell

Finding = dict[str, jax.Array]


@runtime_checkable
class Probe(Protocol):
    """A measurement that `fit` makes before step 0, every so many training steps, and at the end.

    Attributes:
      name: of its results in `History.probes`.
      every: training steps between two measurements.
      batch_size: B, how many of the task's sequences it looks at, the same ones each time.

    Example:
      >>> class SizeProbe:
      ...     name, every, batch_size = "size", 100, 4
      ...     def measure(self, model, inputs):
      ...         return {"output": jnp.abs(model(inputs)).mean()}
      >>> isinstance(SizeProbe(), rj.Probe)
      True
    """

    @property
    def name(self) -> str:
        """Of its results."""
        ...

    @property
    def every(self) -> int:
        """Training steps between two measurements."""
        ...

    @property
    def batch_size(self) -> int:
        """How many sequences it looks at."""
        ...

    def measure(self, model: Any, xs: jax.Array) -> Finding:
        """Arrays by name, of one model and sequences (B, T, I): pure and jittable."""
        ...


def check_finding(probe: Probe, found: Any) -> Finding:
    """Returns what a probe has found, if records can hold it.

    Raises:
      ValueError: no dict, names that are no strings, or values that are no arrays of real numbers.
    """
    rule = f"measure of the probe {probe.name!r} must return a dict of arrays by name"
    if not isinstance(found, dict):
        raise ValueError(f"{rule}; got {describe(found)}. Return for example {{'norm': norm}}.")
    for name, value in found.items():
        if not isinstance(name, str):
            raise ValueError(f"{rule}; got the name {name!r}. Pass a string.")
        dtype = getattr(value, "dtype", type(value))
        kinds = (jnp.floating, jnp.integer, jnp.bool_, float, int)
        if not any(jnp.issubdtype(dtype, kind) for kind in kinds):
            got = kind_of(value) if dtype is type(value) else dtype
            raise ValueError(
                f"{rule}, of real numbers; got {got} for {name!r}. Flatten what is nested, and "
                "compute it with jax.numpy."
            )
    return {name: jnp.asarray(value) for name, value in found.items()}


def recurrent_cell(model: Any) -> Any:
    """The cell of a `SequenceModel`: its only layer, or its layers as one `StackedCell`.

    Raises:
      ValueError: a model whose layers are not simply stacked on the inputs: both directions,
        residual paths, layer norm, or a call of its own.
      TypeError: no `SequenceModel`.
    """
    if not isinstance(model, SequenceModel):
        raise TypeError(
            f"only of a SequenceModel is it known which cell to look at; got {kind_of(model)}. "
            "Pass cell=, a function from the model to its cell."
        )
    if any(_is_overridden(model, name) for name in ("__call__", "_outputs", "_normalised")):
        raise ValueError(
            "a probe can look at layers that are simply stacked on the inputs; got a "
            f"{kind_of(model)}, which has a call of its own, so what it gives its layers cannot be "
            "known. Pass cell=, for example lambda model: model.cells[0] for the first layer along "
            "the inputs as the task gives them."
        )
    layers = list(model.cells)
    if model.residual or model.norms or any(isinstance(layer, Bidirectional) for layer in layers):
        raise ValueError(
            "a probe can look at layers that are simply stacked; got a SequenceModel with residual "
            "paths, layer norm or Bidirectional. Pass cell=, for example lambda model: "
            "model.cells[0] for the first layer alone."
        )
    return layers[0] if len(layers) == 1 else StackedCell(layers)


def _is_overridden(model: SequenceModel, name: str) -> bool:
    return name in vars(model) or getattr(type(model), name) is not getattr(SequenceModel, name)


@dataclass(frozen=True)
class _CellProbe:
    """Fields that probes of a cell share.

    Attributes:
      every: training steps between two measurements.
      batch_size: sequences of the task that are looked at, the same ones each time.
      cell: a function from the model to the cell to look at; None is `recurrent_cell`.
    """

    every: int
    batch_size: int = 4
    cell: Callable[[Any], Any] | None = None

    def __post_init__(self) -> None:
        name = getattr(self, "name", None)
        if not isinstance(name, str):
            raise TypeError(f"name must be a string; got {name!r}. Pass for example 'flow'.")
        check_size("every", self.every)
        check_size("batch_size", self.batch_size)
        if self.cell is not None and not callable(self.cell):
            raise TypeError(
                f"cell must be a function from the model to its cell; got {kind_of(self.cell)}. "
                "Pass for example lambda model: model.cells[0]."
            )

    def _cell_of(self, model: Any) -> Any:
        return recurrent_cell(model) if self.cell is None else self.cell(model)

    def _inputs_of(self, model: Any, xs: jax.Array) -> jax.Array:
        """What the first layer is given, which may be an embedding of the task's tokens."""
        embedding = model.embedding if isinstance(model, SequenceModel) else None
        return xs if embedding is None else embedding(xs, None)


@dataclass(frozen=True)
class GradientFlowProbe(_CellProbe):
    """How far gradients reach while a network learns: log-norms by lag and the horizon.

    by_lag[k] = mean over t and sequences of ln‖∂y_t/∂x_{t−k}‖_F

    Attributes:
      every: training steps between two measurements.
      batch_size: sequences of the task that are looked at, the same ones each time.
      cell: a function from the model to the cell to look at; None is `recurrent_cell`.
      wrt: "input", outputs by inputs, or "state", carries by carries.
      threshold: of the horizon, the largest lag that still has that share of the norm at lag 0.
      name: of the results: by_lag (T,) in nats, horizon () in steps.

    Example:
      >>> probe = rj.GradientFlowProbe(every=100)  # For fit(..., probes=probe)
      >>> model = rj.SequenceModel(cell, 1, rngs=nnx.Rngs(0))
      >>> found = probe.measure(model, jnp.stack([xs, xs]))
      >>> found["by_lag"].shape, int(found["horizon"])
      ((20,), 12)
    """

    wrt: str = "input"
    threshold: float = 0.01
    name: str = "gradient_flow"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("wrt", self.wrt, ("input", "state"))
        if not 0 < check_number("threshold", self.threshold) <= 1:
            raise ValueError(f"threshold must lie in (0, 1]; got {self.threshold}. Pass 0.01.")

    def measure(self, model: Any, xs: jax.Array) -> Finding:
        """Log-norms by lag, (T,), and the horizon, ()."""
        cell, xs = self._cell_of(model), self._inputs_of(model, xs)
        tables = jax.vmap(lambda x: jacobian_log_norms(cell, x, wrt=self.wrt))(xs)
        flow = GradientFlow(log_norms=tables, wrt=self.wrt)
        return {"by_lag": flow.by_lag(), "horizon": flow.horizon(self.threshold)}


@dataclass(frozen=True)
class LyapunovProbe(_CellProbe):
    """The leading Lyapunov exponents along the task's sequences while a network learns.

    Attributes:
      every: training steps between two measurements.
      batch_size: sequences of the task that are looked at, the same ones each time.
      cell: a function from the model to the cell to look at; None is `recurrent_cell`.
      k: how many exponents, the leading ones; all S if S is smaller.
      warmup: steps left out at the beginning of each sequence.
      name: of the results: exponents (k,), the mean over the sequences, nats a step.

    Example:
      >>> probe = rj.LyapunovProbe(every=100, k=2)  # For fit(..., probes=probe)
      >>> model = rj.SequenceModel(cell, 1, rngs=nnx.Rngs(0))
      >>> probe.measure(model, jnp.stack([xs, xs]))["exponents"].shape
      (2,)
    """

    k: int = 4
    warmup: int = 0
    name: str = "lyapunov"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_size("k", self.k)
        check_count("warmup", self.warmup)

    def measure(self, model: Any, xs: jax.Array) -> Finding:
        """Exponents, (k,)."""
        cell, xs = self._cell_of(model), self._inputs_of(model, xs)
        k = min(self.k, sizes_of(accept(cell, xs[0], None)).state)

        def leading(x: jax.Array) -> jax.Array:
            return lyapunov_exponents(cell, x, k=k, warmup=self.warmup).exponents

        return {"exponents": jnp.mean(jax.vmap(leading)(xs), axis=0)}


@dataclass(frozen=True)
class GateProbe(_CellProbe):
    """How open the gates are while a network learns.

    Attributes:
      every: training steps between two measurements.
      batch_size: sequences of the task that are looked at, the same ones each time.
      cell: a function from the model to the cell to look at; None is `recurrent_cell`.
      name: of the results, by gate: its mean and its shares shut (below 0.1) and open (above 0.9),
        as forget_mean, forget_shut, forget_open, all ().

    Example:
      >>> probe = rj.GateProbe(every=100)  # For fit(..., probes=probe)
      >>> model = rj.SequenceModel(cell, 1, rngs=nnx.Rngs(0))
      >>> sorted(probe.measure(model, jnp.stack([xs, xs])))
      ['reset_mean', 'reset_open', 'reset_shut', 'update_mean', 'update_open', 'update_shut']
    """

    name: str = "gates"

    def measure(self, model: Any, xs: jax.Array) -> Finding:
        """Mean, shut and open of each gate, ().

        Raises:
          ValueError: the cell has no gates.
        """
        cell = as_pytree(self._cell_of(model))
        gates = _gates_along(cell, self._inputs_of(model, xs))
        if not isinstance(gates, dict):
            raise TypeError(
                f"the gates of a cell must be a dict of activations by name; {kind_of(cell)} "
                f'returned {describe(gates)}. Return for example {{"forget": f}}.'
            )
        if not gates:
            raise ValueError(
                f"GateProbe needs a cell with gates; {kind_of(owner_of(cell))} has none that hold "
                "for its own step. Use GradientFlowProbe or LyapunovProbe, or give the cell a "
                "method gates(carry, x) that returns a dict of activations by name."
            )
        found: Finding = {}
        for name, gate in gates.items():
            found[f"{name}_mean"] = jnp.mean(gate)
            found[f"{name}_shut"] = jnp.mean((gate < 0.1).astype(gate.dtype))
            found[f"{name}_open"] = jnp.mean((gate > 0.9).astype(gate.dtype))
        return found


@compiled
def _gates_along(cell: Any, xs: jax.Array) -> Any:
    """The gates of a cell along each of some sequences (B, T, I), as it says them."""

    def along(x: jax.Array) -> Any:
        return along_trajectory(Record(Problem(cell, x, None)), "gates")

    return jax.vmap(along)(xs)
