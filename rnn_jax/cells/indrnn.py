"""The independently recurrent network: each unit sees its own past alone."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from rnn_jax.activations import (
    ActivationLike,
    activation_slope_range,
    get_activation,
    is_known_by_element,
)
from rnn_jax.arrays import spread
from rnn_jax.cells.cell import RNNCell
from rnn_jax.cells.linear import LinearForm
from rnn_jax.checks import check_size
from rnn_jax.initializers import Initializer, InitializerLike, get_initializer, initialize


def _uniform(key: jax.Array, shape: tuple[int, ...], dtype: Any) -> jax.Array:
    """Uniform in (0, 1)."""
    return jax.random.uniform(key, shape, dtype)


class IndRNNCell(RNNCell):
    """Independently recurrent cell: one recurrent weight a unit.

    h' = φ(x W_x + u ∘ h + b),    y = h'

    so that ∂h_T/∂h_t = diag(∏ u ∘ φ'): no unit's gradient depends on another's, and with |u| no
    more than 2^(1/T), and slopes of 1 at most, none grows beyond 2 over T steps. Units meet in the
    next layer.

    That bound is kept in training by `capped`, after each step of the optimizer. To clip u inside
    the step instead would take its gradient from each weight that is beyond, for good.

    Args:
      in_features: I.
      hidden_features: H.
      activation: φ, by name (`relu tanh sigmoid` …), as an `Activation`, or any callable.
      length: T, the number of steps over which gradients are to be bounded; None is without a cap.
      kernel_init, bias_init: initialisers, by name or callable.
      recurrent_init: initialiser of u, `recurrent_weights` of shape (H,), by name or callable; None
        is uniform in (0, 1). What it draws is capped.
      use_bias: whether there is b; without it `bias` is None and `bias_init` must be left out.
      dtype: type to compute in; None takes JAX's promotion of input and parameters.
      carry_dtype: type of the carry and of all that is not a matrix product; None is that of the
        products.
      param_dtype: type of the parameters; None is JAX's default float.
      rngs: source of the initial weights.

    Raises:
      ValueError: a size or a length below 1, or an unknown name.
      TypeError: a size that is no int, a flag that is no bool, an `rngs` that is no `nnx.Rngs`, a
        type that is no float.

    Example:
      >>> independent = rj.IndRNNCell(2, 8, length=100, rngs=nnx.Rngs(0))
      >>> round(independent.cap, 4)  # 2^(1/100)
      1.007
      >>> independent.recurrent_weights.shape
      (8,)

    References:
      S. Li, W. Li, C. Cook, C. Zhu and Y. Gao, "Independently recurrent neural network (IndRNN):
      building a longer and deeper RNN", 2018.
    """

    def __init__(
        self,
        in_features: int,
        hidden_features: int,
        *,
        activation: ActivationLike = "relu",
        length: int | None = None,
        kernel_init: InitializerLike = "lecun_normal",
        recurrent_init: InitializerLike | None = None,
        bias_init: InitializerLike = "zeros",
        use_bias: bool = True,
        dtype: Any = None,
        carry_dtype: Any = None,
        param_dtype: Any = None,
        rngs: nnx.Rngs,
    ):
        self.activation = get_activation(activation)
        self.length = None if length is None else check_size("length", length)
        super().__init__(
            in_features,
            hidden_features,
            blocks=("hidden",),
            kernel_init=kernel_init,
            bias_init=bias_init,
            use_bias=use_bias,
            dtype=dtype,
            carry_dtype=carry_dtype,
            param_dtype=param_dtype,
            rngs=rngs,
        )
        init: Initializer = (
            _uniform
            if recurrent_init is None
            else get_initializer("recurrent_init", recurrent_init, "unit")
        )
        shape = (self.hidden_features,)
        u = initialize("recurrent_init", init, rngs.params(), shape, self.param_dtype)
        self.recurrent_weights = nnx.Param(self._within_cap(u))

    def step(self, carry: jax.Array, z: jax.Array) -> tuple[jax.Array, jax.Array]:
        """h' = φ(z + u ∘ h); see `RNNCell.step`."""
        h_prev, z = self._kept(carry, z)
        h = self.activation(z + spread(self.recurrent_weights[...], h_prev) * h_prev)
        return h, h

    @property
    def cap(self) -> float | None:
        """2^(1/T), the most that |u| may be; None without a `length`."""
        return None if self.length is None else float(2.0 ** (1.0 / self.length))

    def capped(self) -> "IndRNNCell":
        """The cell with u cut to [−cap, cap]: itself if it has no cap. Works under `jax.jit`."""

        def within(path: Any, leaf: jax.Array) -> jax.Array:
            named = "recurrent_weights" in jax.tree_util.keystr(path)
            return self._within_cap(leaf) if named else leaf

        found: IndRNNCell = jax.tree_util.tree_map_with_path(within, self)
        return found

    @property
    def diagonal_part(self) -> str | None:  # type: ignore[override]
        """The state, unless the activation may mix its units; see `RNNCell`."""
        return "h" if is_known_by_element(self.activation) else None

    def linear_form(self) -> LinearForm | None:
        """Real and diagonal, Λ = u at every step, for the activation "identity"; else None."""
        if self.activation != get_activation("identity"):
            return None
        return LinearForm("diagonal", self._transition)

    def _transition(self, z: jax.Array) -> tuple[jax.Array, jax.Array]:
        (z,) = self._kept(z)
        u = self.recurrent_weights[...].astype(z.dtype)
        return u.reshape((1,) * (z.ndim - 1) + u.shape), z

    def jacobian_bound(self) -> tuple[float, jax.Array]:
        """The two factors of ‖∂h_t/∂h_{t−1}‖₂ ≤ sup|φ'| · max|u|.

        Returns:
          (sup|φ'|, diag(u)).

        Raises:
          ValueError: the slope range of the activation is not known.
        """
        low, high = activation_slope_range(self.activation)
        return max(abs(low), abs(high)), jnp.diag(self.recurrent_weights[...])

    def _within_cap(self, u: jax.Array) -> jax.Array:
        return u if self.cap is None else jnp.clip(u, -self.cap, self.cap)
