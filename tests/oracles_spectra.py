"""Spectra of products of matrices: exact arithmetic, plain loops and closed forms, without jax.

`As` (T, S, S) are one-step Jacobians, A_1 first, and their product is A_T ⋯ A_1, as in `oracles`.
A float is an integer times a power of two, so a product of floats and its rank are known exactly.
"""

from collections.abc import Sequence
from typing import NamedTuple

import mpmath
import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Integers = list[list[int]]


def _integers(matrix: Array) -> tuple[Integers, int]:
    """(M, e): the matrix is exactly M 2**e."""
    if not np.isfinite(matrix).all():
        raise ValueError("a Jacobian is not finite")
    fraction, exponent = np.frexp(matrix)
    mantissa = np.ldexp(fraction, 53).astype(np.int64)
    exponent = np.where(mantissa == 0, 2**20, exponent.astype(np.int64) - 53)
    low = int(exponent.min())
    pairs = zip(mantissa.tolist(), (exponent - low).tolist(), strict=True)
    return [[m << e if m else 0 for m, e in zip(*row, strict=True)] for row in pairs], low


def exact_product(As: Array) -> tuple[Integers, int]:
    """(M, e): A_T ⋯ A_1 is exactly M 2**e."""
    size = As.shape[1]
    product, exponent = [[int(i == j) for j in range(size)] for i in range(size)], 0
    for A in As:
        left, low = _integers(np.asarray(A, np.float64))
        columns = list(zip(*product, strict=True))
        product = [
            [sum(a * b for a, b in zip(row, column, strict=True)) for column in columns]
            for row in left
        ]
        exponent += low
    return product, exponent


def pivot_bits(matrix: Integers) -> list[int]:
    """Lengths in bits of the pivots of Gaussian elimination; there are as many as the rank.

    Exact, without fractions (Bareiss 1968: every entry is a minor), and with complete pivoting, so
    that singular value i lies within a factor of about 4**S of pivot i.
    """
    rest, previous, bits = [list(row) for row in matrix], 1, []
    while rest:
        where = [(i, j) for i in range(len(rest)) for j in range(len(rest))]
        i, j = max(where, key=lambda at: abs(rest[at[0]][at[1]]))
        pivot, rows = rest[i][j], [row for at, row in enumerate(rest) if at != i]
        if pivot == 0:
            break
        bits.append(pivot.bit_length() - previous.bit_length())
        rest = [
            [
                (entry * pivot - row[j] * above) // previous
                for at, (entry, above) in enumerate(zip(row, rest[i], strict=True))
                if at != j
            ]
            for row in rows
        ]
        previous = pivot
    return bits


def exact_rank(As: Array) -> int:
    """The rank of A_T ⋯ A_1, every float taken at its word."""
    return len(pivot_bits(exact_product(As)[0]))


Vectors = list[list[mpmath.mpf]]


def _pivoted_r(columns: Vectors, rank: int) -> Vectors:
    """The `rank` rows of R in Q R, by modified Gram–Schmidt that takes the longest column next."""
    columns, rows = [list(column) for column in columns], []
    for _ in range(rank):
        longest = max(columns, key=lambda column: mpmath.fdot(column, column))
        length = mpmath.sqrt(mpmath.fdot(longest, longest))
        unit = [entry / length for entry in longest]
        row = [mpmath.fdot(unit, column) for column in columns]
        columns = [
            [entry - share * q for entry, q in zip(column, unit, strict=True)]
            for share, column in zip(row, columns, strict=True)
        ]
        rows.append(row)
    return rows


def _orthogonalised(vectors: Vectors) -> Vectors:
    """One-sided Jacobi (Hestenes 1958): rotations of pairs until all cosines are below 2**-80."""
    vectors, turned = [list(vector) for vector in vectors], True
    while turned:
        turned = False
        for p in range(len(vectors)):
            for q in range(p + 1, len(vectors)):
                u, v = vectors[p], vectors[q]
                uu, vv, uv = mpmath.fdot(u, u), mpmath.fdot(v, v), mpmath.fdot(u, v)
                if mpmath.ldexp(uv * uv, 160) <= uu * vv:
                    continue
                turned = True
                zeta = (vv - uu) / (2 * uv)
                tangent = 1 / (abs(zeta) + mpmath.sqrt(1 + zeta * zeta))
                tangent = -tangent if zeta < 0 else tangent
                cosine = 1 / mpmath.sqrt(1 + tangent * tangent)
                sine = cosine * tangent
                pairs = list(zip(u, v, strict=True))
                vectors[p] = [cosine * a - sine * b for a, b in pairs]
                vectors[q] = [sine * a + cosine * b for a, b in pairs]
    return vectors


def log_singular_values(As: Array) -> Array:
    """(S,) descending: ln σ_i of A_T ⋯ A_1, −inf for as many as the exact rank is short of S.

    The digits span the whole spectrum, from the largest pivot to the smallest, so what the
    decomposition rounds is far below the smallest singular value that is not zero.
    """
    product, exponent = exact_product(As)
    size, bits = len(product), pivot_bits(product)
    logs = np.full(size, -np.inf)
    if not bits:
        return logs
    with mpmath.workprec(bits[0] - min(bits) + 8 * size + 160):
        columns = [[mpmath.mpf(entry) for entry in column] for column in zip(*product, strict=True)]
        # Rows of R, not columns of the product: graded and nearly orthogonal, so sweeps are few.
        rows = _orthogonalised(_pivoted_r(columns, len(bits)))
        values = [mpmath.log(mpmath.fdot(row, row)) / 2 + exponent * mpmath.log(2) for row in rows]
        logs[: len(bits)] = sorted(map(float, values), reverse=True)
    return logs


def first_directions(size: int, k: int | None) -> Array:
    """The axes, or, of fewer than all, directions that no axis of a system is special to."""
    if k is None or k == size:
        return np.eye(size)
    return np.linalg.qr(np.random.default_rng(0).normal(size=(size, k)))[0]


def lyapunov_growth(
    As: Array, k: int | None = None, warmup: int = 0, interval: int = 1
) -> tuple[Array, NDArray[np.int64]]:
    """(ln|R_ii| (N, k), steps (N,)) of windows of `interval` steps; Benettin et al. 1980.

    A window is the product of the R of each of its steps. The first `warmup` steps turn Q only.
    """
    Q = first_directions(As.shape[1], k)
    growth, steps = [], []
    for t, A in enumerate(As):
        Q, R = np.linalg.qr(A @ Q)
        if t < warmup:
            continue
        if (t - warmup) % interval == 0:
            growth.append(np.zeros(Q.shape[1]))
            steps.append(0)
        with np.errstate(divide="ignore"):
            growth[-1] += np.log(np.abs(np.diag(R)))
        steps[-1] += 1
    return np.stack(growth), np.array(steps)


def covariant_vectors(
    As: Array, k: int | None = None, warmup: int = 0, tail: int = 0
) -> tuple[Array, Array]:
    """(vectors (N+1, S, k), log growth (N, k)) by Ginelli et al. 2007, step by step."""
    Q = first_directions(As.shape[1], k)
    Qs, Rs = [Q], []
    for A in As:
        Q, R = np.linalg.qr(A @ Q)
        Qs.append(Q)
        Rs.append(R)
    C = np.eye(Q.shape[1])
    vectors, growth = [Qs[-1] @ C], []
    for Q, R in zip(Qs[-2::-1], Rs[::-1], strict=True):
        C = np.linalg.solve(R, C)
        lengths = np.linalg.norm(C, axis=0)
        C = C / lengths
        vectors.append(Q @ C)
        growth.append(-np.log(lengths))
    stop = len(As) - tail
    return np.stack(vectors[::-1])[warmup : stop + 1], np.stack(growth[::-1])[warmup:stop]


def covariant_vectors_exactly(As: Array, digits: int) -> tuple[Array, Array]:
    """The same for all S, by what they are: (A_T ⋯ A_{t+1})⁻¹ q_i, with so many digits.

    q_i are the Gram–Schmidt vectors of the product A_T ⋯ A_1; nothing is re-orthonormalised.
    """
    size = As.shape[1]
    with mpmath.workdps(digits):
        matrices = [mpmath.matrix(A.tolist()) for A in As]
        V = mpmath.eye(size)
        for A in matrices:
            V = A * V
        for i in range(size):
            for j in range(i):
                V[:, i] -= mpmath.fdot(V[:, i], V[:, j]) * V[:, j]
            V[:, i] /= mpmath.norm(V[:, i])
        vectors, growth = [np.array(V.tolist(), float)], []
        for A in reversed(matrices):
            V = mpmath.inverse(A) * V
            lengths = [mpmath.norm(V[:, i]) for i in range(size)]
            for i, length in enumerate(lengths):
                V[:, i] /= length
            vectors.append(np.array(V.tolist(), float))
            growth.append([-float(mpmath.log(length)) for length in lengths])
    return np.stack(vectors[::-1]), np.array(growth[::-1])


def smallest_angle(one: Array, other: Array) -> float:
    """Between the spans of columns, by the pair of unit vectors that are nearest."""
    Q, P = np.linalg.qr(one)[0], np.linalg.qr(other)[0]
    U, _, Wt = np.linalg.svd(Q.T @ P)
    u, w = Q @ U[:, 0], P @ Wt[0]
    return 2 * np.arctan2(np.linalg.norm(u - w), np.linalg.norm(u + w))


def kaplan_yorke(exponents: Sequence[float], size: int) -> float:
    """j + Σ_{i≤j} λ_i / |λ_{j+1}|, j the most exponents whose sum is not negative."""
    total = 0.0
    for j, exponent in enumerate(exponents):
        if total + exponent < 0:
            return j + total / abs(exponent)
        total += exponent
    return float(size) if len(exponents) == size else np.nan


def gaussian_exponents(size: int, scale: float) -> Array:
    """Exponents of products of independent matrices of N(0, scale²) entries; Newman 1986."""
    halves = [(size - i) / 2 for i in range(size)]
    return np.array([(np.log(2 * scale**2) + float(mpmath.digamma(a))) / 2 for a in halves])


def gaussian_standard_errors(size: int, steps: int) -> Array:
    """Standard deviations of the mean of ln χ_{S−i+1} over independent steps; Var = ψ'(n/2) / 4."""
    variances = [float(mpmath.polygamma(1, (size - i) / 2)) / 4 for i in range(size)]
    return np.sqrt(np.array(variances) / steps)


class AR1(NamedTuple):
    """A stationary series x_t − mean = ρ (x_{t−1} − mean) + scale ε_t, ε_t standard normal."""

    mean: float
    rho: float
    scale: float

    def sample(self, rng: np.random.Generator, *shape: int) -> Array:
        """Series of that shape, time last."""
        noise = self.scale * rng.normal(size=shape)
        noise[..., 0] /= np.sqrt(1 - self.rho**2)
        for t in range(1, shape[-1]):
            noise[..., t] += self.rho * noise[..., t - 1]
        return self.mean + noise

    def standard_error(self, steps: int) -> float:
        """Standard deviation of the mean of `steps` values, from all their covariances."""
        lags = np.arange(1, steps)
        weights = 1 + 2 * np.sum((1 - lags / steps) * self.rho**lags)
        return np.sqrt(self.scale**2 / (1 - self.rho**2) * weights / steps)
