"""The leaky integrator: a continuous-time network in steps of Δt, with time constants."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from rnn_jax.activations import Activation, ActivationLike, get_activation, is_own
from rnn_jax.arrays import promote, spread
from rnn_jax.cells.cell import RNNCell
from rnn_jax.cells.linear import LinearForm, rounds_products, row_matrix
from rnn_jax.cells.structure import Blocks, FusedForm, Group, Groups
from rnn_jax.checks import check_flag, check_not_negative, check_number, check_positive
from rnn_jax.initializers import InitializerLike, gaussian


class LeakyIntegratorCell(RNNCell):
    """Leaky integrator: Euler steps of the network τ dh/dt = −h + φ(x W_x + h W_h + b).

    h' = (1 − α) ∘ h + α ∘ φ(x W_x + h W_h + b),    α = Δt/τ,    y = h'

    so that ∂h_t/∂h_{t−1} = diag(1 − α) + diag(α φ') W_hᵀ: what a unit holds by itself decays by
    1 − α a step, which is e^(−Δt/τ) for Δt ≪ τ, and its gradient with it. With a time constant
    for each unit, some are slow and some are fast.

    Learnt, α = σ(a) for `rate_logit` a, so that τ = Δt/α stays above Δt whatever a becomes.

    Args:
      in_features: I.
      hidden_features: H.
      activation: φ, by name (`tanh relu sigmoid` …), as an `Activation`, or any callable.
      time_constant: τ in the unit of Δt, one number for all units or H of them; at least Δt, above
        it if they are learnt.
      time_step: Δt.
      learn_time_constant: whether τ is trained, one for each unit, from where it is.
      gain: g, of W_h ~ N(0, g²/H): with tanh and τ = Δt an autonomous wide network rests at g < 1
        and is chaotic at g > 1.
      kernel_init, bias_init: initialisers, by name or callable.
      recurrent_kernel_init: of W_h, likewise; None is Gaussian with gain g. Another one is
        multiplied by no gain.
      use_bias: whether there is b; without it `bias` is None and `bias_init` must be left out.
      dtype: type to compute in; None takes JAX's promotion of input and parameters.
      carry_dtype: type of the carry and of all that is not a matrix product; None is that of the
        products.
      param_dtype: type of the parameters; None is JAX's default float.
      rngs: source of the initial weights.

    Raises:
      ValueError: a size below 1, an unknown name, a gain below 0, a time step not above 0, a time
        constant below it, or other than one or H of them.
      TypeError: a size that is no int, a number that is none, a flag that is no bool, an `rngs`
        that is no `nnx.Rngs`, a type that is no float.

    Example:
      >>> leaky = rj.LeakyIntegratorCell(2, 8, time_constant=10.0, rngs=nnx.Rngs(0))
      >>> round(float(leaky.memory_path(jnp.zeros(8), xs[0])["h"][0]), 3)  # 1 − Δt/τ
      0.9

    References:
      H. Jaeger, M. Lukoševičius, D. Popovici and U. Siewert, "Optimization and applications of echo
      state networks with leaky-integrator neurons", 2007.
      H. Sompolinsky, A. Crisanti and H. J. Sommers, "Chaos in random neural networks", 1988 (g).
    """

    def __init__(
        self,
        in_features: int,
        hidden_features: int,
        *,
        activation: ActivationLike = "tanh",
        time_constant: float | Sequence[float] | np.ndarray = 10.0,
        time_step: float = 1.0,
        learn_time_constant: bool = False,
        gain: float = 1.0,
        kernel_init: InitializerLike = "lecun_normal",
        recurrent_kernel_init: InitializerLike | None = None,
        bias_init: InitializerLike = "zeros",
        use_bias: bool = True,
        dtype: Any = None,
        carry_dtype: Any = None,
        param_dtype: Any = None,
        rngs: nnx.Rngs,
    ):
        self.activation = get_activation(activation)
        of_state = gaussian(check_not_negative("gain", gain))
        is_learnt = check_flag("learn_time_constant", learn_time_constant)
        super().__init__(
            in_features,
            hidden_features,
            blocks=("hidden",),
            kernel_init=kernel_init,
            recurrent_kernel_init=(
                of_state if recurrent_kernel_init is None else recurrent_kernel_init
            ),
            bias_init=bias_init,
            use_bias=use_bias,
            dtype=dtype,
            carry_dtype=carry_dtype,
            param_dtype=param_dtype,
            rngs=rngs,
        )
        self.time_step, rates = _check_rates(
            time_step, time_constant, self.hidden_features, is_learnt
        )
        # Numbers where they are fixed: they are then no weights, for gradients and optimizers too.
        self.rates = None if is_learnt else tuple(map(float, rates))
        logit = np.log(rates) - np.log1p(-rates) if is_learnt else None
        self.rate_logit = None if logit is None else nnx.Param(jnp.asarray(logit, self.param_dtype))

    def step(self, carry: jax.Array, z: jax.Array) -> tuple[jax.Array, jax.Array]:
        """h' = (1 − α) h + α φ(z + h W_h); see `RNNCell.step`."""
        h_prev, z = self._kept(carry, z)
        alpha = spread(self._alpha(), h_prev)
        candidate = self.activation(z + self._product(h_prev, self.recurrent_kernel[...]))
        h = (1 - alpha) * h_prev + alpha * candidate
        return h, h

    def fused_form(self) -> FusedForm | None:
        """A kernel, and α as a row of its own; None for an activation not of this package.

        Another one may mix units, or close over weights of its own.
        """
        if not is_own(self.activation):
            return None
        w, alpha = promote(self._whole_kernel(), self._alpha()[None])
        return FusedForm(_UnitMathematics(self.activation), (w, alpha))

    def linear_form(self) -> LinearForm | None:
        """Dense, Λ = diag(1 − α) + diag(α) W_hᵀ, for the activation "identity"; else None."""
        if self.activation != get_activation("identity") or rounds_products(self):
            return None
        return LinearForm("dense", self._transition)

    def _transition(self, z: jax.Array) -> tuple[jax.Array, jax.Array]:
        (z,) = self._kept(z)
        alpha, w = self._alpha().astype(z.dtype), self.recurrent_kernel[...].astype(z.dtype)
        # Columns are what a unit is moved by.
        kernel = jnp.diag(1 - alpha) + w * jnp.broadcast_to(alpha, w.shape)
        return row_matrix(kernel, z), spread(alpha, z) * z

    def memory_path(self, carry: jax.Array, x: jax.Array) -> dict[str, jax.Array]:
        """The factor by which the state is handed on by itself: {"h": 1 − α}.

        Args:
          carry: h before the step, (..., H).
          x: the input, (..., I).

        Returns:
          {"h": (..., H)}.
        """
        z = self.project(x)
        self._check_carry(carry, x)
        return {"h": 1 - spread(self._alpha(), self._kept(carry, z)[0])}

    @property
    def time_constants(self) -> jax.Array:
        """τ of each unit, (H,), in the unit of Δt."""
        return self.time_step / self._alpha()

    def _alpha(self) -> jax.Array:
        """α of each unit, (H,)."""
        if self.rate_logit is not None:
            return jax.nn.sigmoid(self.rate_logit[...])
        return jnp.asarray(self.rates, self.param_dtype)


def _check_rates(
    time_step: Any, time_constant: Any, size: int, is_learnt: bool
) -> tuple[float, np.ndarray]:
    """Δt, and α of each unit, (H,)."""
    dt = check_positive("time_step", time_step)
    if np.ndim(time_constant) == 0:
        taus = np.full(size, check_number("time_constant", time_constant))
    else:
        taus = np.asarray([check_number("time_constant", tau) for tau in time_constant], float)
    if taus.shape != (size,):
        raise ValueError(
            f"time_constant must be one number or one for each of the {size} units; got "
            f"{len(taus)} of them. Pass a float for all."
        )
    if np.any(taus < dt) or (is_learnt and np.any(taus == dt)):
        rule = "above" if is_learnt else "at least"
        raise ValueError(
            f"time_constant must be {rule} time_step={dt:g}, or a step would go beyond where it "
            f"leads; got {taus.min():g}. Pass a longer time constant or a shorter step."
        )
    return dt, dt / taus


@dataclass(frozen=True)
class _UnitMathematics:
    """The leaky integrator, unit by unit; see `UnitMathematics`.

    ḣ' = (1 − α) ∘ ḣ + (α ∘ φ'(u)) ∘ u̇ + (φ(u) − h) ∘ α̇

    α is a block that sees nothing: its kernel is one row, α itself.
    """

    activation: Activation
    groups: ClassVar[Groups] = (
        Group(1, sees_state=True, sees_input=True),
        Group(1, sees_state=False, sees_input=False),
    )

    def advance(self, carry: jax.Array, pre: Blocks) -> tuple[jax.Array, Blocks]:
        u, alpha = pre
        # The activation acts element by element, so its slopes are its derivative along ones.
        candidate, slopes = jax.jvp(self.activation, (u,), (jnp.ones_like(u),))
        return (1 - alpha) * carry + alpha * candidate, (candidate, slopes, alpha)

    def coefficients(self, carry: jax.Array, saved: Blocks) -> Any:
        candidate, slopes, alpha = saved
        return 1 - alpha, alpha * slopes, candidate - carry

    def tangent(self, coefficients: Any, carry: jax.Array, pre: Blocks) -> jax.Array:
        kept, into_h, through_alpha = coefficients
        return kept * carry + into_h * pre[0] + through_alpha * pre[1]

    def hidden(self, carry: jax.Array) -> jax.Array:
        return carry
