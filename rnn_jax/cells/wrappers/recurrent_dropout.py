"""Variational dropout in the recurrence: one mask for a whole sequence."""

from typing import Any

import jax
import jax.numpy as jnp

from rnn_jax.cells.cell import Carry, RNNCell
from rnn_jax.cells.structure import FusedForm, fused_form, input_rows, state_rows
from rnn_jax.cells.wrappers.noise import Noise, draw_noise, dropped, has_noise
from rnn_jax.cells.wrappers.wrapper import CellWrapper
from rnn_jax.checks import check_rate


class RecurrentDropout(CellWrapper):
    """A cell that drops state and input units where they meet the weights.

    u_t = [h_{t−1} ∘ d_h / (1 − rate), x_t ∘ d_x / (1 − input_rate), 1] K,
    carry_t = φ(carry_{t−1}, u_t),    d_h ~ Bernoulli(1 − rate), d_x ~ Bernoulli(1 − input_rate)

    The masks d_h and d_x are drawn once and hold for the whole sequence and for all gates. What
    reaches φ directly is whole: an LSTM's cell state, and a GRU's u ∘ h. Noise takes a key,
    `unroll(cell, xs, key=key)`; without one this is the cell as it is.

    Args:
      cell: a cell of this package (or one that is wrapped already) whose only weights are those of
        affine maps of state and input.
      rate: probability in [0, 1) with which a unit of the state is dropped.
      input_rate: the same for a feature of the input.

    Raises:
      ValueError: a rate outside [0, 1).
      TypeError: a rate that is no number, a cell that is none of this package's, one whose
        recurrence is not of that form (an LSTM with peepholes, a GRU with `reset_after=False`, an
        activation that is not this package's, zoneout), or one that has such noise already.

    References:
      Y. Gal and Z. Ghahramani, "A theoretically grounded application of dropout in recurrent
      neural networks", 2016.
    """

    def __init__(self, cell: RNNCell | CellWrapper, rate: float, input_rate: float = 0.0):
        super().__init__(cell)
        self.rate = check_rate("rate", rate)
        self.input_rate = check_rate("input_rate", input_rate)
        if has_noise(jax.eval_shape(lambda: draw_noise(cell, jax.random.key(0), 1))):
            raise TypeError(
                "RecurrentDropout needs a cell without noise of its own; got "
                f"{type(cell).__name__}, which draws some. Give one RecurrentDropout both rates, "
                "and put Zoneout outside: Zoneout(RecurrentDropout(cell, rate), rate)."
            )
        _masked_form(cell)

    def noise(self, key: jax.Array, steps: int) -> Noise:
        """(dropped units of the state (T, H), dropped features of the input (T, I)), each or None.

        They are the same at every step.
        """
        of_state, of_input = jax.random.split(key)

        def mask(key: jax.Array, rate: float, size: int) -> jax.Array | None:
            if not rate:
                return None
            drop = jax.random.bernoulli(key, jnp.float32(rate), (size,))
            return jnp.broadcast_to(drop, (steps, size))

        return (
            mask(of_state, self.rate, self.hidden_features),
            mask(of_input, self.input_rate, self.in_features),
        )

    def noisy_project(self, x: jax.Array, noise: Noise) -> tuple[jax.Array, ...]:
        """What input and biases add to the pre-activations of each kernel, (..., P)."""
        _, drop = noise
        form = _masked_form(self.cell)
        if drop is not None:
            if not jnp.issubdtype(x.dtype, jnp.floating):
                x = x.astype(form.kernels[0].dtype)
            x = dropped(x, drop, self.input_rate)
        driven = []
        for kernel, w_x in zip(form.kernels, input_rows(form, self.in_features), strict=True):
            u = jnp.broadcast_to(kernel[-1], (*x.shape[:-1], kernel.shape[1]))
            if w_x is not None:
                product = self._product(x, w_x)
                u = u.astype(product.dtype) + product
            driven.append(u)
        return tuple(driven)

    def noisy_step(
        self, carry: Carry, z: tuple[jax.Array, ...], noise: Noise
    ) -> tuple[Carry, jax.Array]:
        """One step in which the kernels see only the units that are left."""
        drop, _ = noise
        form = _masked_form(self.cell)
        leaves, structure = jax.tree.flatten((carry, z))
        carry, z = jax.tree.unflatten(structure, self._kept(*leaves))
        h = form.mathematics.hidden(carry)
        if drop is not None:
            h = dropped(h, drop, self.rate)
        pre = tuple(
            u if w_h is None else u + self._product(h, w_h)
            for u, w_h in zip(z, state_rows(form, self.in_features), strict=True)
        )
        after, _ = form.mathematics.advance(carry, pre)
        return after, form.mathematics.hidden(after)


def _masked_form(cell: Any) -> FusedForm:
    """The form between whose weights and what they multiply a mask can stand.

    Raises:
      TypeError: the cell has none, or none any more.
    """
    form = fused_form(cell)
    if form is None:
        raise TypeError(
            "RecurrentDropout needs a cell whose weights all multiply the state or the input "
            f"as they are, so that a mask can stand between; got a {_form_of(cell)} that does "
            "not. Build an LSTMCell with peephole=False or a GRUCell with reset_after=True, both "
            "of sigmoid and tanh, or a SimpleRNNCell with an activation of this package, given by "
            "name."
        )
    return form


def _form_of(cell: Any) -> str:
    """The cell's name, and what of its options stands in the way."""
    name = type(cell).__name__
    if getattr(cell, "peephole", None) is not None:
        return f"{name} with peepholes"
    if getattr(cell, "reset_after", True) is False:
        return f"{name} with reset_after=False"
    return name
