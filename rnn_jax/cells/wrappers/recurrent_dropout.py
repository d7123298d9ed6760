"""Variational dropout in the recurrence: one mask for a whole sequence."""

from typing import Any

import jax
import jax.numpy as jnp

from rnn_jax.cells.asking import carry_features, carry_form, parameter_dtype, part_names
from rnn_jax.cells.cell import Carry
from rnn_jax.cells.claims import owner_of
from rnn_jax.cells.stages import advance_step
from rnn_jax.cells.structure import (
    FusedForm,
    fused_form,
    input_rows,
    sees_output_alone,
    state_rows,
)
from rnn_jax.cells.wrappers.noise import (
    Noise,
    draw_noise,
    dropped,
    has_noise,
    project_with,
    rates_by_part,
    step_with,
)
from rnn_jax.cells.wrappers.wrapper import CellWrapper, within
from rnn_jax.checks import check_rate, kind_of


class RecurrentDropout(CellWrapper):
    """A cell that drops state and input units where they meet the weights.

    u_t = [h_{t−1} ∘ d_h / (1 − rate), x_t ∘ d_x / (1 − input_rate), 1] K,
    carry_t = φ(carry_{t−1}, u_t),    d_h ~ Bernoulli(1 − rate), d_x ~ Bernoulli(1 − input_rate)

    The masks d_h and d_x are drawn once and hold for the whole sequence and for all gates. What
    reaches φ directly is whole: an LSTM's cell state, and a GRU's u ∘ h. Noise takes a key,
    `unroll(cell, xs, key=key)`; without one this is the cell as it is.

    Where a cell's state meets weights can be told of its `fused_form` alone, and a mask can stand
    there if nothing but the output meets them, as it was before the step. Of any other cell the
    parts of its carry are named that are to be dropped, wherever its step reads them,

    carry_t = cell(carry_{t−1} ∘ d / (1 − rate), x_t ∘ d_x / (1 − input_rate)),

    which is the same for a part that meets nothing but weights, as the h of an LSTM does, of Flax
    or with peepholes. A GRU's h is handed on directly too, and would lose what is dropped.

    Args:
      cell: any cell with an initial carry, plain or wrapped, that says how many features it takes;
        see `rnn_jax.as_cell`.
      rate: probability in [0, 1) with which a unit of the state is dropped: one number for a cell
        in fused form; for any cell numbers by part of the carry, as in {"h": 0.3} or in the
        carry's structure (0.0, 0.3), a part that is not named having rate 0.
      input_rate: the same for a feature of the input.

    Raises:
      ValueError: a rate outside [0, 1), a part that the carry does not have.
      TypeError: a rate that is no number, no cell with an initial carry or one that does not say
        its features, one number for a cell that has no such form (an LSTM with peepholes or a
        projection, a GRU with `reset_after=False`, a coRNN, an activation that is not this
        package's, zoneout, a cell of another library), or a cell that has such noise already.

    Example:
      >>> dropout = rj.RecurrentDropout(cell, 0.25, input_rate=0.1)
      >>> _, noisy = rj.unroll(dropout, xs, key=jax.random.key(0))
      >>> _, plain = rj.unroll(dropout, xs)  # without a key, the cell as it is
      >>> bool(jnp.allclose(plain, rj.unroll(cell, xs)[1])), bool(jnp.allclose(plain, noisy))
      (True, False)

    References:
      Y. Gal and Z. Ghahramani, "A theoretically grounded application of dropout in recurrent
      neural networks", 2016.
    """

    def __init__(self, cell: Any, rate: Any, input_rate: float = 0.0):
        super().__init__(cell)
        of_form = jax.tree_util.treedef_is_leaf(jax.tree.structure(rate))
        if of_form:
            check_rate("rate", rate)
        self.input_rate = check_rate("input_rate", input_rate)
        if has_noise(jax.eval_shape(lambda: draw_noise(self.cell, jax.random.key(0), 1))):
            raise TypeError(
                "RecurrentDropout needs a cell without noise of its own; got "
                f"{type(cell).__name__}, which draws some. Give one RecurrentDropout both rates, "
                "and put Zoneout outside: Zoneout(RecurrentDropout(cell, rate), rate)."
            )
        form = carry_form(self.cell, "RecurrentDropout")
        # None where the cell's form says what meets the weights.
        self.rates: tuple[float, ...] | None = None
        if of_form and (rate or _form_to_mask(self.cell) is not None):
            _masked_form(self.cell)
        else:
            self.rates = rates_by_part("rate", rate, form, part_names(self.cell, form))
        self.rate = rate if of_form else max(self.rates or (0.0,))

    def noise(self, key: jax.Array, steps: int) -> Noise:
        """(dropped units of the state, dropped features of the input (T, I)), None by rate 0.

        Of a form the state is h, (T, H); else each leaf of the carry. They are the same at every
        step.
        """
        of_state, of_input = jax.random.split(key)
        features = carry_features(self.cell, "RecurrentDropout")

        def mask(key: jax.Array, rate: float, shape: tuple[int, ...]) -> jax.Array | None:
            if not rate:
                return None
            drop = jax.random.bernoulli(key, jnp.float32(rate), shape)
            return jnp.broadcast_to(drop, (steps, *shape))

        of_x = mask(of_input, self.input_rate, (features,))
        if self.rates is None:
            return mask(of_state, self.rate, (self.hidden_features,)), of_x
        leaves = jax.tree.leaves(carry_form(self.cell, "RecurrentDropout"))
        keys = jax.random.split(of_state, len(leaves))
        drawn = zip(keys, self.rates, leaves, strict=True)
        return tuple(mask(key, rate, leaf.shape) for key, rate, leaf in drawn), of_x

    def noisy_project(self, x: jax.Array, noise: Noise) -> Any:
        """What depends on the input and its noise alone; of a form, (..., P) for each kernel."""
        _, drop = noise
        if drop is not None:
            if not jnp.issubdtype(x.dtype, jnp.floating):
                x = x.astype(parameter_dtype(self.cell))
            x = dropped(x, drop, self.input_rate)
        if self.rates is not None:
            return project_with(self.cell, x, None)
        form = _masked_form(self.cell)
        driven = []
        for kernel, w_x in zip(form.kernels, input_rows(form, self.in_features), strict=True):
            u = jnp.broadcast_to(kernel[-1], (*x.shape[:-1], kernel.shape[1]))
            if w_x is not None:
                product = self._product(x, w_x)
                u = u.astype(product.dtype) + product
            driven.append(u)
        return tuple(driven)

    def noisy_step(self, carry: Carry, z: Any, noise: Noise) -> tuple[Carry, Any]:
        """One step that sees only the units that are left."""
        drops, _ = noise
        if self.rates is not None:
            return step_with(self.cell, _left_of(carry, drops, self.rates), z, None)
        form = _masked_form(self.cell)
        leaves, structure = jax.tree.flatten((carry, z))
        carry, z = jax.tree.unflatten(structure, self._kept(*leaves))
        rows = state_rows(form, self.in_features)

        def products(k: int, h: jax.Array | None) -> Any:
            w_h = rows[k]
            if h is None or w_h is None:
                return z[k]
            left = h if drops is None else dropped(h, drops, self.rate)
            return z[k] + self._product(left, w_h)

        after, _ = advance_step(form.mathematics, carry, products)
        return after, form.mathematics.hidden(after)


def _left_of(carry: Carry, drops: tuple[jax.Array | None, ...], rates: tuple[float, ...]) -> Carry:
    """A carry as a step sees it, some units of some parts dropped."""
    leaves, structure = jax.tree.flatten(carry)
    left = [
        leaf if drop is None else dropped(leaf, jnp.broadcast_to(drop, leaf.shape), rate)
        for leaf, drop, rate in zip(leaves, drops, rates, strict=True)
    ]
    return jax.tree.unflatten(structure, left)


def _masked_form(cell: Any) -> FusedForm:
    """The form between whose weights and what they multiply a mask can stand.

    Raises:
      TypeError: the cell has none, or none any more.
    """
    form = _form_to_mask(cell)
    if form is None:
        raise TypeError(
            "RecurrentDropout needs a cell whose weights all multiply the output or the input "
            f"as they are, so that a mask can stand between; got a {_form_of(cell)}, of which that "
            "is not known or not so. Build an LSTMCell with peephole=False, truncated=False and no "
            "projection or a GRUCell with reset_after=True, both of sigmoid and tanh, or a "
            "SimpleRNNCell with an activation of this package, given by name; or name the parts of "
            'the carry that meet nothing but weights, as in rate={"h": 0.3} for an LSTM with h in '
            "its carry_parts, or (0.0, 0.3) in the structure of the carry."
        )
    return form


def _form_to_mask(cell: Any) -> FusedForm | None:
    """The cell's form, if all that its weights multiply of the carry is the output."""
    form = fused_form(cell)
    return form if form is not None and sees_output_alone(form.mathematics) else None


def _form_of(cell: Any) -> str:
    """The cell's name, and what of its options stands in the way."""
    *_, inner = within(cell)
    name = kind_of(owner_of(inner))
    if getattr(cell, "peephole", None) is not None:
        return f"{name} with peepholes"
    if getattr(cell, "projection", None) is not None:
        return f"{name} with a projection"
    if getattr(cell, "truncated", False):
        return f"{name} with a truncated gradient"
    if getattr(cell, "reset_after", True) is False:
        return f"{name} with reset_after=False"
    return name
