"""Networks of oscillators: coupled to one another (coRNN), and each to itself (UnICORNN)."""

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx

from rnn_jax.arrays import spread
from rnn_jax.cells.cell import RNNCell
from rnn_jax.cells.structure import Blocks, FusedForm, Group, Groups
from rnn_jax.checks import check_not_negative, check_positive, check_size
from rnn_jax.initializers import (
    Initializer,
    InitializerLike,
    get_initializer,
    initialize,
    uniform_to,
)

OscillatorCarry = tuple[jax.Array, jax.Array]


class CoRNNCell(RNNCell):
    """Coupled oscillators: y'' = tanh(W y + 𝒲 y' + V x + b) − γ y − ε y', in steps of Δt.

    z' = z + Δt (tanh(x V + [y, z] W + b) − γ y − ε z)        velocity
    y' = y + Δt z'                                            position, the output

    The carry is (y, z), and `recurrent_kernel` has 2H rows: first those that meet y, then those
    that meet z.

    Gradients: a step is the identity and terms of order Δt, ‖∂(y', z')/∂(y, z)‖_∞ ≤
    max(r, 1 + Δt r) with r = |1 − Δt ε| + Δt (γ + ‖W‖) and ‖W‖ the largest sum over |entries| of a
    column, so over T steps of order 1/T the product stays bounded. The paper says so of its
    gradients, and that they do not vanish exponentially.

    Args:
      in_features: I.
      hidden_features: H.
      time_step: Δt > 0.
      gamma: γ ≥ 0, which pulls positions to 0.
      epsilon: ε ≥ 0, the damping. The defaults of all three are those of the paper for digits read
        pixel by pixel; for the adding problem they are 0.06, 66 and 15.
      kernel_init, recurrent_kernel_init, bias_init: initialisers, by name or callable; None is the
        paper's, uniform between ±1/√(I + 2H).
      use_bias: whether there is b; without it `bias` is None and `bias_init` must be left out.
      dtype: type to compute in; None takes JAX's promotion of input and parameters.
      carry_dtype: type of the carry and of all that is not a matrix product; None is that of the
        products.
      param_dtype: type of the parameters; None is JAX's default float.
      rngs: source of the initial weights.

    Raises:
      ValueError: a size below 1, an unknown name, a step or coefficient out of its range.
      TypeError: a size that is no int, a coefficient that is no number, a flag that is no bool, an
        `rngs` that is no `nnx.Rngs`, a type that is no float.

    Example:
      >>> oscillators = rj.CoRNNCell(2, 8, time_step=0.01, rngs=nnx.Rngs(0))
      >>> oscillators.carry_shapes
      {'y': (8,), 'z': (8,)}
      >>> jacobians = rj.linearize(oscillators, xs).state_jacobians
      >>> bool((abs(jacobians - jnp.eye(16)) < 0.05).all())  # steps of order Δt away from I
      True

    References:
      T. K. Rusch and S. Mishra, "Coupled oscillatory recurrent neural network (coRNN): an accurate
      and (gradient) stable architecture for learning long time dependencies", 2021.
    """

    carry_parts = ("y", "z")

    def __init__(
        self,
        in_features: int,
        hidden_features: int,
        *,
        time_step: float = 0.042,
        gamma: float = 2.7,
        epsilon: float = 4.7,
        kernel_init: InitializerLike | None = None,
        recurrent_kernel_init: InitializerLike | None = None,
        bias_init: InitializerLike | None = None,
        use_bias: bool = True,
        dtype: Any = None,
        carry_dtype: Any = None,
        param_dtype: Any = None,
        rngs: nnx.Rngs,
    ):
        self.time_step = check_positive("time_step", time_step)
        self.gamma = check_not_negative("gamma", gamma)
        self.epsilon = check_not_negative("epsilon", epsilon)
        size_in = check_size("in_features", in_features)
        size = check_size("hidden_features", hidden_features)
        papers = uniform_to(1 / math.sqrt(size_in + 2 * size))
        super().__init__(
            in_features,
            hidden_features,
            blocks=("force",),
            kernel_init=papers if kernel_init is None else kernel_init,
            bias_init=bias_init,
            default_bias_init=papers,
            use_bias=use_bias,
            dtype=dtype,
            carry_dtype=carry_dtype,
            param_dtype=param_dtype,
            rngs=rngs,
        )
        name = "recurrent_kernel_init"
        init = papers if recurrent_kernel_init is None else recurrent_kernel_init
        self.recurrent_kernel = nnx.Param(
            initialize(
                name,
                get_initializer(name, init),
                rngs.params(),
                (2 * size, size),
                self.param_dtype,
            )
        )

    def transition_kernel(self) -> None:
        """None: two parts of the carry meet weights; see `RNNCell.transition_kernel`."""

    def step(self, carry: OscillatorCarry, z: jax.Array) -> tuple[OscillatorCarry, jax.Array]:
        """One step of (y, z) with the projected input; see `RNNCell.step`."""
        y_prev, z_prev, drive = self._kept(*carry, z)
        both = jnp.concatenate([y_prev, z_prev], axis=-1)
        force = jnp.tanh(drive + self._product(both, self.recurrent_kernel[...]))
        velocity = z_prev + self.time_step * (force - self.gamma * y_prev - self.epsilon * z_prev)
        y = y_prev + self.time_step * velocity
        return (y, velocity), y

    def fused_form(self) -> FusedForm | None:
        """One kernel, which sees both parts of the carry."""
        mathematics = _UnitMathematics(self.time_step, self.gamma, self.epsilon)
        return FusedForm(mathematics, (self._whole_kernel(),))


@dataclass(frozen=True)
class _UnitMathematics:
    """coRNN, unit by unit; see `UnitMathematics`. With t = tanh u:

    ż' = ż + Δt ((1 − t²) ∘ u̇ − γ ẏ − ε ż),    ẏ' = ẏ + Δt ż'
    """

    time_step: float
    gamma: float
    epsilon: float
    groups: ClassVar[Groups] = (Group(1, sees_state=True, sees_input=True, parts=(0, 1)),)

    def advance(self, carry: OscillatorCarry, pre: Blocks) -> tuple[OscillatorCarry, Blocks]:
        t = jnp.tanh(pre[0])
        return self._moved(carry, t), (t,)

    def coefficients(self, carry: OscillatorCarry, saved: Blocks) -> jax.Array:
        (t,) = saved
        return 1 - t * t

    def tangent(self, coefficients: Any, carry: OscillatorCarry, pre: Blocks) -> OscillatorCarry:
        return self._moved(carry, coefficients * pre[0])

    def hidden(self, carry: OscillatorCarry) -> jax.Array:
        return carry[0]

    def _moved(self, carry: OscillatorCarry, force: jax.Array) -> OscillatorCarry:
        """(y', z') under a force, linear in both."""
        y, z = carry
        z = z + self.time_step * (force - self.gamma * y - self.epsilon * z)
        return y + self.time_step * z, z


class UnICORNNCell(RNNCell):
    """Undamped independent oscillators, each with a step of time of its own.

    z' = z − Δt σ(c) ∘ (tanh(w ∘ y + x V + b) + α y)        velocity
    y' = y + Δt σ(c) ∘ z'                                   position, the output

    The carry is (y, z). A unit acts on itself alone: w and c are vectors, `recurrent_kernel` and
    `time_scale`, of shape (H,), and no product with the state is in a step, so there is no fused
    form. In the paper layers of it are stacked.

    Gradients: each unit's ∂(y', z')/∂(y, z) is a product of two shears, so its determinant is 1
    whatever the state: no volume of states vanishes or explodes, and a step can be undone exactly
    (y = y' − Δt σ(c) ∘ z', and then z). The paper bounds gradients above over a sequence, and says
    that they do not vanish exponentially.

    Args:
      in_features: I.
      hidden_features: H.
      time_step: Δt > 0.
      alpha: α ≥ 0, which pulls positions to 0. The defaults of both are those of the paper for
        permuted digits.
      kernel_init: of V; None is the authors', uniform between ±√(6/(65 I)).
      recurrent_kernel_init: of w, of shape (H,); None is the paper's, uniform in (0, 1).
      time_scale_init: of c, likewise; None is the paper's, uniform between ±0.1.
      bias_init: of b.
      use_bias: whether there is b; without it `bias` is None and `bias_init` must be left out.
      dtype: type to compute in; None takes JAX's promotion of input and parameters.
      carry_dtype: type of the carry and of all that is not a matrix product; None is that of the
        products.
      param_dtype: type of the parameters; None is JAX's default float.
      rngs: source of the initial weights.

    Raises:
      ValueError: a size below 1, an unknown name, a step or coefficient out of its range.
      TypeError: a size that is no int, a coefficient that is no number, a flag that is no bool, an
        `rngs` that is no `nnx.Rngs`, a type that is no float.

    Example:
      >>> unicornn = rj.UnICORNNCell(2, 8, rngs=nnx.Rngs(0))
      >>> jacobians = rj.linearize(unicornn, xs).state_jacobians
      >>> bool(np.allclose(np.linalg.det(jacobians), 1, atol=1e-4))  # volume is kept, at every step
      True

    References:
      T. K. Rusch and S. Mishra, "UnICORNN: a recurrent model for learning very long time
      dependencies", 2021.
    """

    carry_parts = ("y", "z")
    # Of z the same is true.
    diagonal_part = "y"

    def __init__(
        self,
        in_features: int,
        hidden_features: int,
        *,
        time_step: float = 0.19,
        alpha: float = 30.65,
        kernel_init: InitializerLike | None = None,
        recurrent_kernel_init: InitializerLike | None = None,
        time_scale_init: InitializerLike | None = None,
        bias_init: InitializerLike = "zeros",
        use_bias: bool = True,
        dtype: Any = None,
        carry_dtype: Any = None,
        param_dtype: Any = None,
        rngs: nnx.Rngs,
    ):
        self.time_step = check_positive("time_step", time_step)
        self.alpha = check_not_negative("alpha", alpha)
        size_in = check_size("in_features", in_features)
        of_kernel = uniform_to(math.sqrt(6 / (65 * size_in)))
        super().__init__(
            in_features,
            hidden_features,
            blocks=("force",),
            kernel_init=of_kernel if kernel_init is None else kernel_init,
            bias_init=bias_init,
            use_bias=use_bias,
            dtype=dtype,
            carry_dtype=carry_dtype,
            param_dtype=param_dtype,
            rngs=rngs,
        )

        def vector(name: str, given: InitializerLike | None, papers: Initializer) -> Any:
            init = get_initializer(name, papers if given is None else given, "unit")
            shape = (self.hidden_features,)
            return nnx.Param(initialize(name, init, rngs.params(), shape, self.param_dtype))

        self.recurrent_kernel = vector(
            "recurrent_kernel_init", recurrent_kernel_init, jax.random.uniform
        )
        self.time_scale = vector("time_scale_init", time_scale_init, uniform_to(0.1))

    def transition_kernel(self) -> None:
        """None: each unit acts on itself alone; see `RNNCell.transition_kernel`."""

    def step(self, carry: OscillatorCarry, z: jax.Array) -> tuple[OscillatorCarry, jax.Array]:
        """One step of (y, z) with the projected input; see `RNNCell.step`."""
        y_prev, z_prev, drive = self._kept(*carry, z)
        w, c = (spread(param[...], drive) for param in (self.recurrent_kernel, self.time_scale))
        step = self.time_step * jax.nn.sigmoid(c)
        velocity = z_prev - step * (jnp.tanh(w * y_prev + drive) + self.alpha * y_prev)
        y = y_prev + step * velocity
        return (y, velocity), y
