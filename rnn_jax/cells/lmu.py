"""The Legendre memory unit."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from rnn_jax.cells.cell import RNNCell
from rnn_jax.checks import check_positive, check_size
from rnn_jax.initializers import InitializerLike, get_initializer, initialize

LMUCarry = tuple[jax.Array, jax.Array]


class LMUCell(RNNCell):
    """Legendre memory unit: a fixed linear memory of a sliding window, and a simple cell beside it.

    u = x e_x + h e_h + m e_m                   what is written to the memory, one number
    m' = Ā m + B̄ u                              d Legendre coefficients of the last θ steps of u
    h' = tanh(x W_x + h W_h + m' W_m),          y = h'

    A_ij = (2i + 1)/θ · (−1 if i < j else (−1)^{i−j+1}) and B_i = (2i + 1)/θ · (−1)^i, i and j from
    0 on; Ā and B̄ are their zero-order hold over one step, and are not trained. The carry is (m, h).

    Claim about gradients: ∂m_t/∂m_{t−1} = Ā + B̄ e_m and no slope of an activation stands in it, so
    the memory keeps what it was told for θ steps whatever came since: Σ_i m_i is u of θ steps ago,
    for a u that changes slowly against θ/d. The memory is linear in itself, the cell is not: h is
    written to it.

    Args:
      in_features: I.
      hidden_features: H.
      memory_features: d, the order of the memory.
      theta: θ, the length of its window in steps, above 0.
      encoder_init: initialiser of e_x and e_h, by name or callable; e_m starts at 0.
      kernel_init: of W_x, W_h and W_m, likewise.
      dtype: type to compute in; None takes JAX's promotion of input and parameters.
      carry_dtype: type of the carry and of all that is not a matrix product; None is that of the
        products.
      param_dtype: type of the parameters; None is JAX's default float.
      rngs: source of the initial weights.

    Raises:
      ValueError: a size below 1, a θ that is not above 0, or an unknown name.
      TypeError: a size that is no int, an `rngs` that is no `nnx.Rngs`, a type that is no float.

    Example:
      >>> lmu = rj.LMUCell(2, 8, memory_features=6, theta=10.0, rngs=nnx.Rngs(0))
      >>> (m, h), y = lmu(lmu.initialize_carry((2,)), xs[0])
      >>> m.shape, bool(jnp.array_equal(h, y))
      ((6,), True)

    References:
      A. Voelker, I. Kajić and C. Eliasmith, "Legendre memory units: continuous-time representation
      in recurrent neural networks", 2019.
    """

    carry_parts = ("m", "h")

    def __init__(
        self,
        in_features: int,
        hidden_features: int,
        *,
        memory_features: int = 64,
        theta: float = 784.0,
        encoder_init: InitializerLike = "lecun_uniform",
        kernel_init: InitializerLike = "glorot_normal",
        dtype: Any = None,
        carry_dtype: Any = None,
        param_dtype: Any = None,
        rngs: nnx.Rngs,
    ):
        super().__init__(
            in_features,
            hidden_features,
            dtype=dtype,
            carry_dtype=carry_dtype,
            param_dtype=param_dtype,
            rngs=rngs,
        )
        size, kind = self.hidden_features, self.param_dtype
        order = self.memory_features = check_size("memory_features", memory_features)
        self.theta = check_positive("theta", theta)

        def drawn(name: str, of: InitializerLike, rows: int, columns: int) -> jax.Array:
            init = get_initializer(name, of)
            return initialize(name, init, rngs.params(), (rows, columns), kind)

        def kernel(rows: int) -> jax.Array:
            return drawn("kernel_init", kernel_init, rows, size)

        def encoder(rows: int) -> jax.Array:
            return drawn("encoder_init", encoder_init, rows, 1)

        # Columns: what is written to the memory, and what enters h.
        self.kernel = nnx.Param(
            jnp.concatenate([encoder(self.in_features), kernel(self.in_features)], axis=1)
        )
        self.recurrent_kernel = nnx.Param(jnp.concatenate([encoder(size), kernel(size)], axis=1))
        self.memory_encoder = nnx.Param(jnp.zeros((order, 1), kind))
        self.memory_kernel = nnx.Param(kernel(order))

    @property
    def carry_shapes(self) -> dict[str, tuple[int, ...]]:
        """{"m": (d,), "h": (H,)}; see `RNNCell.carry_shapes`."""
        return {"m": (self.memory_features,), "h": (self.hidden_features,)}

    def project(self, x: jax.Array) -> jax.Array:
        """[x e_x, x W_x], (..., 1 + H); see `RNNCell.project`."""
        return self._input_product(x)

    def transition_kernel(self) -> None:
        """None: two parts of the carry meet weights; see `RNNCell.transition_kernel`."""

    def step(self, carry: LMUCarry, z: jax.Array) -> tuple[LMUCarry, jax.Array]:
        """One step of (m, h); see `RNNCell.step`."""
        m_prev, h_prev, z = self._kept(*carry, z)
        a, b = legendre_memory(self.memory_features, self.theta)
        pre = z + self._product(h_prev, self.recurrent_kernel[...])
        u = pre[..., :1] + self._product(m_prev, self.memory_encoder[...])
        kept = jnp.matmul(m_prev, jnp.asarray(a.T, m_prev.dtype))
        m = kept + jnp.matmul(u, jnp.asarray(b[None], m_prev.dtype))
        h = jnp.tanh(pre[..., 1:] + self._product(m, self.memory_kernel[...]))
        return (m, h), h


@functools.lru_cache(maxsize=8)
def legendre_memory(order: int, theta: float) -> tuple[np.ndarray, np.ndarray]:
    """Ā (d, d) and B̄ (d,): the memory of Legendre polynomials over one step, by zero-order hold."""
    from scipy.linalg import expm

    i, j = np.mgrid[:order, :order]
    row = (2.0 * np.arange(order) + 1) / theta
    a = row[:, None] * np.where(i < j, -1.0, (-1.0) ** (i - j + 1))
    b = row * (-1.0) ** np.arange(order)
    # The exponential of [[A, B], [0, 0]] is [[Ā, B̄], [0, 1]].
    whole = np.zeros((order + 1, order + 1))
    whole[:order, :order], whole[:order, order] = a, b
    held = expm(whole)
    return held[:order, :order], held[:order, order]
