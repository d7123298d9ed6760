"""Initialisers of matrices with a given structure or spectrum."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rnn_jax.arrays import at_least_float32
from rnn_jax.checks import check_not_negative, check_number, check_positive
from rnn_jax.initializers.drawing import Initializer
from rnn_jax.initializers.entries import matrix_shape, square_size
from rnn_jax.initializers.hippo import legs_matrix
from rnn_jax.initializers.skew import random_angles, skew_matrix


def orthogonal(scale: float = 1.0) -> Initializer:
    """A random orthogonal matrix, times a number.

    Wᵀ W = s² I

    A matrix that is not square has orthonormal rows or columns, whichever are fewer, times s.

    Args:
      scale: s.

    Returns:
      An initialiser of matrices.

    Raises:
      TypeError, ValueError: `scale` is not one finite number.

    Example:
      >>> w = rj.initializers.orthogonal()(jax.random.key(0), (8, 8), jnp.float32)
      >>> bool(jnp.allclose(w.T @ w, jnp.eye(8), atol=1e-5))
      True

    References:
      A. M. Saxe, J. L. McClelland and S. Ganguli, "Exact solutions to the nonlinear dynamics of
      learning in deep linear neural networks", 2014.
    """
    return _Orthogonal(check_number("scale", scale))


def identity(scale: float = 1.0) -> Initializer:
    """The identity matrix, times a number: the recurrent kernel of the IRNN, with ReLU.

    W = s I

    Args:
      scale: s.

    Returns:
      An initialiser of matrices; of one that is not square, ones stand on the main diagonal.

    Raises:
      TypeError, ValueError: `scale` is not one finite number.

    Example:
      >>> rj.initializers.identity(0.5)(jax.random.key(0), (2, 2), jnp.float32).tolist()
      [[0.5, 0.0], [0.0, 0.5]]

    References:
      Q. Le, N. Jaitly and G. Hinton, "A simple way to initialize recurrent networks of rectified
      linear units", 2015.
    """
    return _Identity(check_number("scale", scale))


def sparse(density: float = 0.1, radius: float = 0.9) -> Initializer:
    """A sparse square matrix of a given spectral radius: the reservoir of an echo state network.

    Each unit sees k = max(1, density · H) units, by weights uniform in (−1, 1), and all of
    them are then scaled until the largest eigenvalue has modulus ρ.

    Args:
      density: the share of units that each unit sees, in (0, 1].
      radius: ρ, at least 0.

    Returns:
      An initialiser of square matrices.

    Raises:
      ValueError: a density outside (0, 1], or a radius below 0; when it draws, a matrix whose
        eigenvalues are all 0.
      TypeError: one of them is no number.

    Example:
      >>> w = rj.initializers.sparse(0.1, 0.9)(jax.random.key(0), (50, 50), jnp.float32)
      >>> sorted(set((w != 0).sum(0).tolist()))  # units seen by each
      [5]
      >>> round(float(abs(np.linalg.eigvals(w)).max()), 3)
      0.9

    References:
      H. Jaeger, "The 'echo state' approach to analysing and training recurrent neural networks",
      2001.
    """
    share = check_number("density", density)
    if not 0 < share <= 1:
        raise ValueError(
            f"density must be above 0 and at most 1; got {share:g}. Pass the share of units that "
            "each unit sees, such as 0.1."
        )
    return _Sparse(share, check_not_negative("radius", radius))


def ring(r_min: float = 1.0, r_max: float = 1.0, max_phase: float = 2 * math.pi) -> Initializer:
    """A real normal matrix with eigenvalues on a ring of the complex plane, as the LRU starts.

    W = Qᵀ R Q

    with Q orthogonal at random and R of 2×2 blocks that turn by θ and scale by r; so
    singular values are the moduli of the eigenvalues r e^{±iθ}. r is such that eigenvalues are
    uniform in the ring's area, θ uniform in [0, max_phase]; with an odd number of rows one
    eigenvalue is real and positive. The default is the unit circle, where W is orthogonal.

    Args:
      r_min, r_max: the ring, 0 ≤ r_min ≤ r_max ≤ 1.
      max_phase: in radians, in (0, 2π].

    Returns:
      An initialiser of square matrices.

    Raises:
      ValueError: a ring or a phase out of range.
      TypeError: one of them is no number.

    Example:
      >>> w = rj.initializers.ring(0.9, 0.99)(jax.random.key(0), (8, 8), jnp.float32)
      >>> moduli = np.linalg.svd(w, compute_uv=False)
      >>> bool(((moduli > 0.899) & (moduli < 0.991)).all())
      True

    References:
      A. Orvieto et al., "Resurrecting recurrent neural networks for long sequences", 2023.
    """
    return _Ring(*check_ring(r_min, r_max, max_phase))


def henaff() -> Initializer:
    """Rotations in planes by random angles: an orthogonal matrix of 2×2 blocks.

    W = diag([[cos θ, sin θ], [−sin θ, cos θ]], …),    θ ~ U(−π, π)

    With an odd number of rows the last of them is that of the identity.

    Returns:
      An initialiser of square matrices.

    Example:
      >>> w = rj.initializers.henaff()(jax.random.key(0), (5, 5), jnp.float32)
      >>> bool(jnp.allclose(w @ w.T, jnp.eye(5), atol=1e-6)), float(w[-1, -1])
      (True, 1.0)

    References:
      M. Henaff, A. Szlam and Y. LeCun, "Recurrent orthogonal networks and long-memory tasks", 2016.
    """
    return _Rotations()


def hippo(step: float = 0.01) -> Initializer:
    """The memory of HiPPO-LegS, discretised by a zero-order hold.

    W = exp(Δ A)ᵀ,    x' = x W

    A is `legs_matrix`, which is lower triangular with −1, −2, … on its diagonal, so that the
    eigenvalues of W are e^{−nΔ}, n from 1 on.

    Args:
      step: Δ, above 0.

    Returns:
      An initialiser of square matrices, the same for every key.

    Raises:
      ValueError: a step that is not above 0.
      TypeError: a step that is no number.

    Example:
      >>> w = rj.initializers.hippo(0.1)(jax.random.key(0), (4, 4), jnp.float32)
      >>> jnp.round(-jnp.log(jnp.diag(w)), 3).tolist()  # nΔ
      [0.1..., 0.2..., 0.3..., 0.4...]

    References:
      A. Gu et al., "HiPPO: recurrent memory with optimal polynomial projections", 2020.
    """
    return _Hippo(check_positive("step", step))


# Classes, where closures would do, so that they can be compared and pickled.
@dataclass(frozen=True)
class _Orthogonal:
    scale: float

    def __call__(self, key: jax.Array, shape: Sequence[int], dtype: Any = float) -> jax.Array:
        # The QR behind it has no half-precision kernel: drawn in float32, then rounded.
        draw = jax.nn.initializers.orthogonal(self.scale)
        return draw(key, shape, at_least_float32(dtype)).astype(dtype)


@dataclass(frozen=True)
class _Identity:
    scale: float

    def __call__(self, key: jax.Array, shape: Sequence[int], dtype: Any = None) -> jax.Array:
        del key
        return self.scale * jnp.eye(*matrix_shape("identity", shape), dtype=dtype)


@dataclass(frozen=True)
class _Sparse:
    density: float
    radius: float

    def __call__(self, key: jax.Array, shape: Sequence[int], dtype: Any = float) -> jax.Array:
        size = square_size("sparse", shape)
        of_places, of_values = jax.random.split(key)
        wide = at_least_float32(dtype)
        values = jax.random.uniform(of_values, (size, size), wide, -1.0, 1.0)
        # Where every unit sees one at least there is a circle, and so an eigenvalue other than 0.
        places = jnp.argsort(jax.random.uniform(of_places, (size, size)), axis=0)
        drawn = jnp.where(places < max(1, round(self.density * size)), values, 0)
        if not isinstance(drawn, jax.core.Tracer):
            return jnp.asarray(self._scaled(drawn), dtype)
        # Eigenvalues of a general matrix are computed on the host, on every platform.
        result = jax.ShapeDtypeStruct(drawn.shape, wide)
        return jax.pure_callback(self._scaled, result, drawn, vmap_method="sequential").astype(
            dtype
        )

    def _scaled(self, drawn: Any) -> np.ndarray:
        values = np.asarray(drawn, np.float64)
        modulus = np.abs(np.linalg.eigvals(values)).max()
        if modulus == 0:
            raise ValueError(
                "sparse needs a matrix with an eigenvalue other than 0 to scale; got one of "
                f"{values.shape[0]} rows whose eigenvalues are all 0. Pass a density above "
                f"{self.density:g}, or another seed"
            )
        return (values * (self.radius / modulus)).astype(drawn.dtype)


@dataclass(frozen=True)
class _Ring:
    r_min: float
    r_max: float
    max_phase: float

    def __call__(self, key: jax.Array, shape: Sequence[int], dtype: Any = float) -> jax.Array:
        size = square_size("ring", shape)
        of_area, of_turn, of_basis = jax.random.split(key, 3)
        wide = at_least_float32(dtype)
        decay, phase = draw_ring(
            of_area, of_turn, (size + 1) // 2, self.r_min, self.r_max, self.max_phase, wide
        )
        blocks = _turning(jnp.exp(-decay), phase, size)
        basis = _Orthogonal(1.0)(of_basis, (size, size), wide)
        with jax.default_matmul_precision("highest"):
            return (basis.T @ blocks @ basis).astype(dtype)


@dataclass(frozen=True)
class _Rotations:
    def __call__(self, key: jax.Array, shape: Sequence[int], dtype: Any = float) -> jax.Array:
        size = square_size("henaff", shape)
        angles = random_angles(key, size, at_least_float32(dtype))
        angles = jnp.concatenate([angles, jnp.zeros(size % 2, angles.dtype)])
        return _turning(jnp.ones_like(angles), angles, size).astype(dtype)


@dataclass(frozen=True)
class _Hippo:
    step: float

    def __call__(self, key: jax.Array, shape: Sequence[int], dtype: Any = float) -> jax.Array:
        from scipy.linalg import expm

        del key
        return jnp.asarray(expm(self.step * legs_matrix(square_size("hippo", shape))).T, dtype)


def check_ring(r_min: float, r_max: float, max_phase: float) -> tuple[float, float, float]:
    """Returns the three if they are a ring inside the unit circle and a range of phases."""
    low, high = check_number("r_min", r_min), check_number("r_max", r_max)
    if not 0 <= low <= high <= 1:
        raise ValueError(
            f"r_min and r_max must be 0 <= r_min <= r_max <= 1; got {low:g} and {high:g}. Pass the "
            "ring of the eigenvalues, for example r_min=0.9, r_max=0.999."
        )
    phase = check_number("max_phase", max_phase)
    if not 0 < phase <= 2 * math.pi:
        raise ValueError(
            f"max_phase must lie in (0, 2π]; got {phase:g}. Pass for example math.pi / 10."
        )
    return low, high, phase


def draw_ring(
    of_area: jax.Array,
    of_turn: jax.Array,
    count: int,
    r_min: float,
    r_max: float,
    max_phase: float,
    dtype: Any,
) -> tuple[jax.Array, jax.Array]:
    """Eigenvalues e^{−d + iθ} uniform in the area of a ring (Orvieto et al., 2023).

    Args:
      of_area, of_turn: random keys.
      count: how many.
      r_min, r_max, max_phase: as `check_ring` returns them.
      dtype: of at least 32 bits.

    Returns:
      (d = −log |λ| > 0, θ in (0, max_phase]), each (count,).
    """
    # From (0, 1]: of 0 there is no logarithm.
    area = 1 - jax.random.uniform(of_area, (count,), dtype)
    turn = 1 - jax.random.uniform(of_turn, (count,), dtype)
    # |λ|² is uniform; d is at least what keeps its own logarithm finite where the ring touches 1.
    decay = -0.5 * jnp.log(area * (r_max**2 - r_min**2) + r_min**2)
    return jnp.maximum(decay, jnp.finfo(dtype).tiny), max_phase * turn


def _turning(moduli: jax.Array, angles: jax.Array, size: int) -> jax.Array:
    """Blocks r [[cos θ, sin θ], [−sin θ, cos θ]]; of an odd size's last one r alone is there."""
    pairs = size // 2
    at = jnp.arange(0, 2 * pairs, 2)
    cosine, sine = (moduli[:pairs] * part(angles[:pairs]) for part in (jnp.cos, jnp.sin))
    blocks = skew_matrix(sine, size).at[at, at].set(cosine).at[at + 1, at + 1].set(cosine)
    return blocks if size % 2 == 0 else blocks.at[-1, -1].set(moduli[pairs])
