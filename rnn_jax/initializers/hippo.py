"""HiPPO-LegS: the state space whose state is the past in Legendre polynomials."""

import functools

import numpy as np


def legs_matrix(size: int) -> np.ndarray:
    """The matrix A of HiPPO-LegS, which keeps the past of a signal in Legendre polynomials.

    A_nk = −√(2n+1) √(2k+1) for n > k, −(n+1) for n = k, else 0

    with n and k from 0 on. It acts on column vectors, x' = A x + B u.

    Args:
      size: N.

    Returns:
      A, (N, N), a NumPy array in float64.

    Example:
      >>> rj.initializers.legs_matrix(3).diagonal().tolist()
      [-1.0, -2.0, -3.0]

    References:
      A. Gu et al., "HiPPO: recurrent memory with optimal polynomial projections", 2020.
    """
    n = np.arange(size)
    root = np.sqrt(2.0 * n + 1)
    return -np.tril(np.outer(root, root), -1) - np.diag(n + 1.0)


@functools.lru_cache(maxsize=8)
def hippo_eigenvectors(pairs: int) -> tuple[np.ndarray, np.ndarray]:
    """Phases (N,) > 0 and eigenvectors (2N, N) of the normal part of HiPPO-LegS of 2N states.

    A + P Pᵀ with P_n = √(n + ½) is −½ plus a skew-symmetric matrix, whose eigenvalues come in pairs
    ±iω.
    """
    size = 2 * pairs
    p = np.sqrt(np.arange(size) + 0.5)
    normal = legs_matrix(size) + np.outer(p, p)
    skew = 0.5 * (normal - normal.T)
    phases, vectors = np.linalg.eigh(-1j * skew)
    return phases[pairs:], vectors[:, pairs:]
