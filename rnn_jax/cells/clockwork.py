"""The clockwork recurrent network: modules of units that are evaluated at periods of their own."""

import itertools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from rnn_jax.activations import ActivationLike, get_activation
from rnn_jax.cells.cell import Carry, RNNCell
from rnn_jax.checks import check_count
from rnn_jax.initializers import Initializer, InitializerLike

ClockworkCarry = tuple[jax.Array, jax.Array]

_normal = jax.nn.initializers.normal(0.1)
# How many modules there are by default, if there are units enough.
_MODULES = 8


class ClockworkRNNCell(RNNCell):
    """Clockwork recurrent network: module i of the units is evaluated every T_i steps.

    h'_i = φ(x W_x + h W_h + b)_i    if t mod T_i = 0,    else h_i
    t' = (t + 1) mod the least common multiple of the periods
    y = h'

    Units lie in the order of their periods, and each sees those of its own module and of slower
    ones: fast modules get their context from slow ones, slow ones are not distracted by fast ones.
    Of W_h, whose rows are the units seen and whose columns the units that see, the blocks with
    T_row ≥ T_column are used: block lower triangular here, where states are rows, and so block
    upper triangular in the paper's W_H, where they are columns. The others start at 0, and neither
    values nor gradients depend on them; `transition_kernel()` is what is used.

    The carry is (h, t), of shapes (..., H) and (..., 1). t counts steps from the start of the
    sequence, where it is 0 and so every module is evaluated. It is a whole number in the carry's
    own floating-point type, and since it starts again after a cycle, exact in sequences of any
    length. No derivative goes through it: its row and column of ∂carry'/∂carry are 0, so it adds
    one Lyapunov exponent of −∞, and all others are those of h.

    Claim about gradients: a row of ∂h'/∂h is a row of the identity wherever its unit is not
    evaluated, so that in T steps a module's own past passes through no more than ⌈T/T_i⌉ slopes and
    products.

    Args:
      in_features: I.
      hidden_features: H.
      periods: T_1 < T_2 < …, one whole number for each module; None is 1, 2, 4, …, 128, of no more
        modules than units. H is divided evenly, a remainder going to the fastest modules.
      activation: φ, by name (`tanh relu sigmoid` …), as an `Activation`, or any callable.
      kernel_init, recurrent_kernel_init: initialisers, by name or callable; None is normal with
        standard deviation 0.1.
      bias_init: of b, likewise.
      use_bias: whether there is b; without it `bias` is None and `bias_init` must be left out.
      dtype: type to compute in; None takes JAX's promotion of input and parameters.
      carry_dtype: type of the carry and of all that is not a matrix product; None is that of the
        products.
      param_dtype: type of the parameters; None is JAX's default float.
      rngs: source of the initial weights.

    Raises:
      ValueError: a size below 1, an unknown name, periods that do not rise or are more than units,
        or whose least common multiple is no exact number in the carry's type.
      TypeError: a size or a period that is no int, a flag that is no bool, an `rngs` that is no
        `nnx.Rngs`, a type that is no float.

    Example:
      >>> clockwork = rj.ClockworkRNNCell(2, 8, periods=(1, 2, 4, 8), rngs=nnx.Rngs(0))
      >>> clockwork.unit_periods.tolist(), clockwork.cycle
      ([1, 1, 2, 2, 4, 4, 8, 8], 8)
      >>> carry = jnp.zeros(8), jnp.ones(1)  # before step 1, at which the fastest are evaluated
      >>> clockwork.memory_path(carry, xs[0])["h"].tolist()
      [0.0, 0.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0]

    References:
      J. Koutník, K. Greff, F. Gomez and J. Schmidhuber, "A clockwork RNN", 2014.
    """

    carry_parts = ("h", "t")

    def __init__(
        self,
        in_features: int,
        hidden_features: int,
        *,
        periods: Sequence[int] | None = None,
        activation: ActivationLike = "tanh",
        kernel_init: InitializerLike | None = None,
        recurrent_kernel_init: InitializerLike | None = None,
        bias_init: InitializerLike = "zeros",
        use_bias: bool = True,
        dtype: Any = None,
        carry_dtype: Any = None,
        param_dtype: Any = None,
        rngs: nnx.Rngs,
    ):
        self.activation = get_activation(activation)
        super().__init__(
            in_features,
            hidden_features,
            blocks=("hidden",),
            kernel_init=_normal if kernel_init is None else kernel_init,
            recurrent_kernel_init=(
                _normal if recurrent_kernel_init is None else recurrent_kernel_init
            ),
            bias_init=bias_init,
            use_bias=use_bias,
            dtype=dtype,
            carry_dtype=carry_dtype,
            param_dtype=param_dtype,
            rngs=rngs,
        )
        kept = self.carry_dtype or self.dtype or self.param_dtype
        self.periods = _check_periods(periods, self.hidden_features, kept)
        self.recurrent_kernel[...] = self.transition_kernel()

    @property
    def unit_periods(self) -> np.ndarray:
        """The period of each unit, (H,), rising."""
        each, more = divmod(self.hidden_features, len(self.periods))
        return np.repeat(self.periods, [each + (k < more) for k in range(len(self.periods))])

    @property
    def cycle(self) -> int:
        """The number of steps after which the clock is where it was."""
        return math.lcm(*self.periods)

    def transition_kernel(self) -> jax.Array:
        """W_h with 0 where a slower unit would see a faster one, (H, H)."""
        return self._used(self.recurrent_kernel[...])

    def initialize_carry(
        self,
        input_shape: tuple[int, ...],
        rngs: nnx.Rngs | nnx.RngStream | None = None,
        carry_init: Initializer | None = None,
    ) -> Carry:
        """(h, t) for inputs of a given shape; `carry_init` draws h, and t is 0."""
        h, t = super().initialize_carry(input_shape, rngs, carry_init)
        return h, jnp.zeros_like(t)

    def step(self, carry: ClockworkCarry, z: jax.Array) -> tuple[ClockworkCarry, jax.Array]:
        """One step of (h, t); see `RNNCell.step`."""
        h_prev, t, z = self._kept(*carry, z)
        t = jax.lax.stop_gradient(t)
        candidate = self.activation(z + self._product(h_prev, self.transition_kernel()))
        h = jnp.where(self._is_evaluated(t), candidate, h_prev)
        return (h, jnp.mod(t + 1, self.cycle)), h

    def memory_path(self, carry: ClockworkCarry, x: jax.Array) -> dict[str, jax.Array]:
        """The factor by which a unit is handed on by itself: 0 where it is evaluated, else 1.

        Args:
          carry: (h, t) before the step, (..., H) and (..., 1).
          x: the input, (..., I).

        Returns:
          {"h": (..., H)}.
        """
        z = self.project(x)
        self._check_carry(carry, x)
        h, t, _ = self._kept(*carry, z)
        return {"h": 1 - self._is_evaluated(t).astype(h.dtype)}

    @property
    def carry_shapes(self) -> dict[str, tuple[int, ...]]:
        """{"h": (H,), "t": (1,)}; see `RNNCell.carry_shapes`."""
        return {"h": (self.hidden_features,), "t": (1,)}

    def _used(self, kernel: jax.Array) -> jax.Array:
        periods = self.unit_periods
        return jnp.where(periods[:, None] >= periods[None], kernel, jnp.zeros_like(kernel))

    def _is_evaluated(self, t: jax.Array) -> jax.Array:
        """Which units are, (..., H), by the clock (..., 1)."""
        shape = (*t.shape[:-1], self.hidden_features)
        periods = jnp.broadcast_to(jnp.asarray(self.unit_periods, t.dtype), shape)
        # Below 1 and not 0, so that a clock between whole numbers ticks as often.
        return jnp.mod(jnp.broadcast_to(t, shape), periods) < 1


def _check_periods(periods: Any, size: int, kept: Any) -> tuple[int, ...]:
    """The periods as a tuple of ints."""
    if periods is None:
        return tuple(2**k for k in range(min(_MODULES, size)))
    if isinstance(periods, (str, bytes)) or not isinstance(periods, (Sequence, np.ndarray)):
        raise TypeError(
            f"periods must be a sequence of whole numbers; got {periods!r}. Pass for example "
            "(1, 2, 4, 8)."
        )
    found = tuple(check_count("each of periods", period, low=1) for period in periods)
    if not found or any(a >= b for a, b in itertools.pairwise(found)):
        raise ValueError(
            f"periods must rise from the fastest module to the slowest; got {list(found)}. Pass "
            "for example (1, 2, 4, 8)."
        )
    if len(found) > size:
        raise ValueError(
            f"periods must be at most one for each unit; got {len(found)} of them for "
            f"hidden_features={size}. Pass fewer periods or build the cell with more units."
        )
    exact = 2 ** (jnp.finfo(kept).nmant + 1)
    if math.lcm(*found) > exact:
        raise ValueError(
            f"periods must have a least common multiple of at most {exact}, up to which "
            f"{jnp.dtype(kept).name} counts exactly; got {math.lcm(*found)}. Pass periods that "
            "divide one another, as powers of 2 do, or a wider carry_dtype."
        )
    return found
