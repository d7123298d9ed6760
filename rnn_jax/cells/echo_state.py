"""The echo state network: a fixed random reservoir, of which only a readout is trained."""

from typing import Any

import jax
from flax import nnx

from rnn_jax.activations import ActivationLike
from rnn_jax.cells.leaky import LeakyIntegratorCell
from rnn_jax.checks import check_not_negative, check_number
from rnn_jax.initializers import InitializerLike, sparse, uniform_to


class Fixed(nnx.Variable[jax.Array]):
    """A weight that is never trained: no `nnx.Param`, and read without a derivative.

    What reads it by `variable[...]`, as every step does, gets its value with `stop_gradient`, so
    `jax.grad` by a cell that holds it is exactly 0 here. `rnn_jax.fit` trains `nnx.Param` alone.
    """

    def get_value(self, **options: Any) -> jax.Array:
        """The value, through which no derivative goes."""
        return jax.lax.stop_gradient(super().get_value(**options))


class EchoStateCell(LeakyIntegratorCell):
    """Echo state network: a leaky integrator of fixed random weights.

    h' = (1 − α) h + α φ(x W_in + h W + b),    y = h'

    W, W_in and b are `Fixed`: neither `rnn_jax.fit` nor `jax.grad` nor an optimizer moves them
    (weight decay of all leaves of a pytree would: mask it, as `fit` does). What is trained is the
    readout, by `rnn_jax.ridge_readout` exactly, or as that of a `SequenceModel` by gradients.

    Each unit sees k = max(1, density · H) units, by weights uniform in (−1, 1), all of which are
    then multiplied by one number so that the largest |eigenvalue| of W is `spectral_radius`.

    Claim about gradients: the echo state property, that what h has been is forgotten, so that after
    a while h depends on the inputs alone: λ₁ < 0, the largest Lyapunov exponent for these inputs.
    It holds for all inputs where the largest singular value of W is below 1 and |φ'| ≤ 1, since
    ‖∂h'/∂h‖ ≤ 1 − α + α σ₁(W). A spectral radius below 1 is the weaker thing: what φ = tanh needs
    at rest, without input, where ∂h'/∂h = (1 − α) + α Wᵀ.

    Args:
      in_features: I.
      hidden_features: H.
      spectral_radius: ρ, at least 0.
      leak_rate: α in (0, 1]; 1 is without a leak.
      density: in (0, 1], the share of units that each unit sees.
      input_scaling: W_in is uniform between ± this.
      bias_scaling: b likewise; 0 is without bias.
      activation: φ, by name (`tanh relu identity` …), as an `Activation`, or any callable.
      recurrent_kernel_init: of W as it is, by name or callable; None is as said above. Another one
        is multiplied by nothing.
      dtype: type to compute in; None takes JAX's promotion of input and parameters.
      carry_dtype: type of the carry and of all that is not a matrix product; None is that of the
        products.
      param_dtype: type of the weights; None is JAX's default float.
      rngs: source of the weights.

    Raises:
      ValueError: a size below 1, an unknown name, or a number out of its range.
      TypeError: a size that is no int, a number that is none, an `rngs` that is no `nnx.Rngs`, a
        type that is no float.

    Example:
      >>> reservoir = rj.EchoStateCell(2, 50, spectral_radius=0.8, rngs=nnx.Rngs(0))
      >>> round(float(abs(np.linalg.eigvals(reservoir.recurrent_kernel[...])).max()), 3)
      0.8
      >>> jax.tree.leaves(nnx.state(reservoir, nnx.Param))  # nothing is trained
      []

    References:
      H. Jaeger, "The 'echo state' approach to analysing and training recurrent neural networks",
      2001.
      H. Jaeger, M. Lukoševičius, D. Popovici and U. Siewert, "Optimization and applications of echo
      state networks with leaky-integrator neurons", 2007 (the leak).
    """

    def __init__(
        self,
        in_features: int,
        hidden_features: int,
        *,
        spectral_radius: float = 0.9,
        leak_rate: float = 1.0,
        density: float = 0.1,
        input_scaling: float = 1.0,
        bias_scaling: float = 0.0,
        activation: ActivationLike = "tanh",
        recurrent_kernel_init: InitializerLike | None = None,
        dtype: Any = None,
        carry_dtype: Any = None,
        param_dtype: Any = None,
        rngs: nnx.Rngs,
    ):
        share, leak = _share("density", density), _share("leak_rate", leak_rate)
        radius = check_not_negative("spectral_radius", spectral_radius)
        super().__init__(
            in_features,
            hidden_features,
            activation=activation,
            time_constant=1 / leak,
            kernel_init=uniform_to(check_not_negative("input_scaling", input_scaling)),
            recurrent_kernel_init=(
                sparse(share, radius) if recurrent_kernel_init is None else recurrent_kernel_init
            ),
            bias_init=uniform_to(check_not_negative("bias_scaling", bias_scaling)),
            dtype=dtype,
            carry_dtype=carry_dtype,
            param_dtype=param_dtype,
            rngs=rngs,
        )
        self.kernel = Fixed(self.kernel[...])  # type: ignore[assignment]
        self.recurrent_kernel = Fixed(self.recurrent_kernel[...])  # type: ignore[assignment]
        self.bias = Fixed(self.bias[...])  # type: ignore[assignment]


def _share(name: str, value: Any) -> float:
    share = check_number(name, value)
    if not 0 < share <= 1:
        raise ValueError(
            f"{name} must lie in (0, 1]; got {share:g}. Pass a float above 0, up to 1."
        )
    return share
