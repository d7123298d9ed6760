"""Slow, independent oracles in plain NumPy float64 (and mpmath) for what `rnn_jax` computes.

Nothing here imports jax or rnn_jax. Row vectors: `z = x @ kernel + h @ recurrent_kernel + bias`,
gate blocks side by side along the last axis. A carry is a flat vector of size S. `carries[0]` is
the initial carry; step t reads `carries[t]` and `xs[t]` and makes `carries[t + 1]` and `ys[t]`:
`As[t] = d carries[t + 1] / d carries[t]` and `Bs[t] = d carries[t + 1] / d xs[t]`.

Slopes are s(z) s(-z) and 4 s'(2z), accurate in saturation where s (1 - s), 1 - tanh^2 are not.
"""

from collections.abc import Callable, Sequence

import mpmath
import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Weights = dict[str, Array]
Blocks = dict[str, tuple[Array, Array, Array]]  # gate: (W (I, H), U (H, H), b (H,))
Pair = tuple[Array, Array]
Step = Callable[[Array, Array], Pair]  # (carry, x) -> (new carry, y), or (A, B)
Grad = Callable[[Array, Array, Array], Weights]  # (carry, x, dL/d new carry) -> dL/dweights


def sigmoid(z: Array) -> Array:
    """1 / (1 + exp(-z)), with an exponential that never overflows."""
    e = np.exp(-np.abs(z))
    return np.where(z >= 0, 1 / (1 + e), e / (1 + e))


def sigmoid_slope(z: Array) -> Array:
    """s'(z) = s(z) s(-z)."""
    return sigmoid(z) * sigmoid(-z)


def tanh_slope(z: Array) -> Array:
    """tanh'(z) = 1 / cosh(z)^2 = 4 s'(2z), as tanh(z) = 2 s(2z) - 1."""
    return 4 * sigmoid_slope(2 * z)


Elementwise = Callable[[Array], Array]
ACTIVATIONS: dict[str, tuple[Elementwise, Elementwise]] = {  # phi, phi'; at a kink as in jax.nn
    "sigmoid": (sigmoid, sigmoid_slope),
    "tanh": (np.tanh, tanh_slope),
    "relu": (lambda z: np.maximum(z, 0.0), lambda z: np.where(z > 0, 1.0, 0.0)),
    "leaky_relu": (lambda z: np.where(z >= 0, z, 0.01 * z), lambda z: np.where(z >= 0, 1.0, 0.01)),
    "identity": (lambda z: z.copy(), np.ones_like),
    "softplus": (lambda z: np.logaddexp(0.0, z), sigmoid),
}


def _blocks(weights: Weights, gates: Sequence[str], *extra: str) -> Blocks:
    """Cuts the fused weights gate by gate; biases may be absent, unknown weights are refused."""
    unknown = set(weights) - {"kernel", "recurrent_kernel", "bias", *extra}
    H, columns = weights["recurrent_kernel"].shape
    H = len(weights.get("projection_kernel", np.zeros(H)))
    if unknown or columns != len(gates) * H:
        raise ValueError(f"expected gate blocks {list(gates)}; unknown weights {sorted(unknown)}")
    fused = weights["kernel"], weights["recurrent_kernel"], weights.get("bias", np.zeros(columns))
    W, U, b = (np.split(w, len(gates), axis=-1) for w in fused)
    return dict(zip(gates, zip(W, U, b, strict=True), strict=True))


def _gradients(weights: Weights, x: Array, delta: Array, dU: Array, **extra: Array) -> Weights:
    """dL/dW of one step from delta = dL/dz over all gates; only the weights the cell has."""
    every = {"kernel": np.outer(x, delta), "recurrent_kernel": dU, "bias": delta, **extra}
    return {name: every[name] for name in weights}


def simple_rnn_step(weights: Weights, carry: Array, x: Array, activation: str = "tanh") -> Pair:
    """One step, h' = phi(x W + h U + b); Elman 1990. S = H, y = h'."""
    W, U, b = _blocks(weights, ["hidden"])["hidden"]
    h = ACTIVATIONS[activation][0](x @ W + carry @ U + b)
    return h, h


def simple_rnn_jacobian(weights: Weights, carry: Array, x: Array, activation: str = "tanh") -> Pair:
    """A = diag(phi'(z)) U^T (H, H), B = diag(phi'(z)) W^T (H, I)."""
    W, U, b = _blocks(weights, ["hidden"])["hidden"]
    slope = ACTIVATIONS[activation][1](x @ W + carry @ U + b)
    return slope[:, None] * U.T, slope[:, None] * W.T


def simple_rnn_gradient(
    weights: Weights, carry: Array, x: Array, total: Array, activation: str = "tanh"
) -> Weights:
    """dW = x delta^T, dU = h delta^T, db = delta with delta = phi'(z) total, total = dL/dh'."""
    W, U, b = _blocks(weights, ["hidden"])["hidden"]
    delta = total * ACTIVATIONS[activation][1](x @ W + carry @ U + b)
    return _gradients(weights, x, delta, np.outer(carry, delta))


class _LSTM:
    """One step taken apart: slopes[k] = dc'/dz_k, with z_k the pre-activation of gate k."""

    def __init__(self, weights: Weights, carry: Array, x: Array, **form: bool) -> None:
        defaults = {"peephole": False, "coupled": False, "forget_gate": True}
        peephole, coupled, forget_gate = (defaults | form).values()
        there = {"input": not coupled, "forget": forget_gate, "candidate": True, "output": True}
        self.gates = gates = [gate for gate in there if there[gate]]
        self.P = weights.get("projection_kernel")  # (H, P)
        extra = [] if self.P is None else ["projection_kernel"]
        self.blocks = _blocks(weights, gates, *extra, *(["peephole"] if peephole else []))
        H = weights["recurrent_kernel"].shape[1] // len(gates)
        self.c, self.h = c, h = carry[:H], carry[H:]
        self.p = {gate: np.zeros_like(c) for gate in gates}
        if peephole:
            self.p |= zip((k for k in gates if k != "candidate"), weights["peephole"], strict=True)
        z = {k: x @ W + h @ U + b for k, (W, U, b) in self.blocks.items()}
        z |= {k: z[k] + self.p[k] * c for k in gates if k != "output"}
        self.f = sigmoid(z["forget"]) if forget_gate else np.ones_like(c)
        i = sigmoid(-z["forget"]) if coupled else sigmoid(z["input"])  # 1 - s(z) = s(-z)
        g = np.tanh(z["candidate"])
        self.c_new = self.f * c + i * g
        z_o = z["output"] + self.p["output"] * self.c_new
        self.o, self.o_slope = sigmoid(z_o), sigmoid_slope(z_o)
        self.slopes = {"candidate": i * tanh_slope(z["candidate"])}
        if forget_gate:
            self.slopes["forget"] = (c - g if coupled else c) * sigmoid_slope(z["forget"])
        if not coupled:
            self.slopes["input"] = g * sigmoid_slope(z["input"])


def lstm_step(weights: Weights, carry: Array, x: Array, **form: bool) -> Pair:
    """One step, c' = f c + i tanh(g), h' = o tanh(c'); carry = [c, h], S = 2H, y = h'.

    With a `projection_kernel` P (H, P) among the weights h' = (o tanh(c')) P, S = H + P; Sak et al.
    2014. Options: `forget_gate=False` (f = 1; Hochreiter & Schmidhuber 1997), `coupled` (i = 1 - f;
    Greff et al. 2017), `peephole` (i, f see c and o sees c'; Gers & Schmidhuber 2000).
    """
    at = _LSTM(weights, carry, x, **form)
    m = at.o * np.tanh(at.c_new)
    h = m if at.P is None else m @ at.P
    return np.concatenate([at.c_new, h]), h


def lstm_jacobian(weights: Weights, carry: Array, x: Array, **form: bool) -> Pair:
    """A (S, S) and B (S, I), by the chain rule over the columns (c, h, x).

    dc' = [diag(f), 0, 0] + sum_k diag(dc'/dz_k) [diag(p_k), U_k^T, W_k^T];
    dh' = diag(tanh(c') o') ([0, U_o^T, W_o^T] + diag(p_o) dc') + diag(o / cosh(c')^2) dc',
    and P^T from the left with a projection.
    """
    at = _LSTM(weights, carry, x, **form)
    dc = np.hstack([np.diag(at.f), np.zeros((len(at.c), len(at.h) + len(x)))])
    for gate, slope in at.slopes.items():
        W, U, _ = at.blocks[gate]
        dc = dc + slope[:, None] * np.hstack([np.diag(at.p[gate]), U.T, W.T])
    W, U, _ = at.blocks["output"]
    dz_o = np.hstack([np.zeros((len(at.c), len(at.c))), U.T, W.T]) + at.p["output"][:, None] * dc
    dh = (np.tanh(at.c_new) * at.o_slope)[:, None] * dz_o
    dh = dh + (at.o * tanh_slope(at.c_new))[:, None] * dc
    both = np.vstack([dc, dh if at.P is None else at.P.T @ dh])
    return both[:, : len(carry)], both[:, len(carry) :]


def lstm_gradient(weights: Weights, carry: Array, x: Array, total: Array, **form: bool) -> Weights:
    """dL/dweights from total = (dL/dc', dL/dh'); delta_k = dL/dz_k, dp_k = delta_k c (o: c')."""
    at = _LSTM(weights, carry, x, **form)
    dc, dh_out = total[: len(at.c)], total[len(at.c) :]
    dh = dh_out if at.P is None else at.P @ dh_out
    delta = {"output": dh * np.tanh(at.c_new) * at.o_slope}
    dc = dc + dh * at.o * tanh_slope(at.c_new) + at.p["output"] * delta["output"]
    delta |= {gate: slope * dc for gate, slope in at.slopes.items()}
    fused = np.concatenate([delta[gate] for gate in at.gates])
    seen = {"input": at.c, "forget": at.c, "output": at.c_new}
    rows = np.stack([seen[gate] * delta[gate] for gate in at.gates if gate in seen])
    projected = np.outer(at.o * np.tanh(at.c_new), dh_out)
    return _gradients(
        weights, x, fused, np.outer(at.h, fused), peephole=rows, projection_kernel=projected
    )


class _GRU:
    """One step taken apart; a = h U_n + b' is what r multiplies when `reset_after`."""

    def __init__(self, weights: Weights, h: Array, x: Array, reset_after: bool) -> None:
        extra = ["candidate_recurrent_bias"] if reset_after else []
        self.blocks = _blocks(weights, ["reset", "update", "candidate"], *extra)
        z = {k: x @ W + h @ U + b for k, (W, U, b) in self.blocks.items()}
        W, U, b = self.blocks["candidate"]
        self.r, self.z = sigmoid(z["reset"]), sigmoid(z["update"])
        self.r_slope, self.z_slope = sigmoid_slope(z["reset"]), sigmoid_slope(z["update"])
        self.a = h @ U + weights.get("candidate_recurrent_bias", np.zeros_like(h))
        z_n = x @ W + b + (self.r * self.a if reset_after else (self.r * h) @ U)
        self.n, self.n_slope = np.tanh(z_n), tanh_slope(z_n)


def gru_step(weights: Weights, carry: Array, x: Array, reset_after: bool = True) -> Pair:
    """One step, h' = (1 - z) n + z h. S = H, y = h'.

    n = tanh(x W_n + b_n + r (h U_n + b')) if `reset_after` (cuDNN, PyTorch), else
    n = tanh(x W_n + b_n + (r h) U_n) (Cho et al. 2014).
    """
    at = _GRU(weights, carry, x, reset_after)
    h = (1 - at.z) * at.n + at.z * carry
    return h, h


def gru_jacobian(weights: Weights, carry: Array, x: Array, reset_after: bool = True) -> Pair:
    """A (H, H), B (H, I): dh' = diag((1 - z) n') dz_n + diag(h - n) dz + diag(z) dh.

    dz_n = diag(r) U^T dh + diag(a) dr + W^T dx (after) or U^T (diag(r) dh + diag(h) dr) + W^T dx.
    """
    at = _GRU(weights, carry, x, reset_after)
    (W_r, U_r, _), (W_z, U_z, _), (W_n, U_n, _) = at.blocks.values()
    dr = at.r_slope[:, None] * np.hstack([U_r.T, W_r.T])
    dz = at.z_slope[:, None] * np.hstack([U_z.T, W_z.T])
    if reset_after:
        dz_n = np.hstack([at.r[:, None] * U_n.T, W_n.T]) + at.a[:, None] * dr
    else:
        dz_n = np.hstack([U_n.T * at.r[None, :], W_n.T]) + U_n.T @ (carry[:, None] * dr)
    both = ((1 - at.z) * at.n_slope)[:, None] * dz_n + (carry - at.n)[:, None] * dz
    return both[:, : len(carry)] + np.diag(at.z), both[:, len(carry) :]


def gru_gradient(
    weights: Weights, carry: Array, x: Array, total: Array, reset_after: bool = True
) -> Weights:
    """dL/dweights from total = dL/dh'; delta_k = dL/dz_k, z_k the pre-activation of gate k."""
    at = _GRU(weights, carry, x, reset_after)
    U_n = at.blocks["candidate"][1]
    delta_n = total * (1 - at.z) * at.n_slope
    delta_z = total * (carry - at.n) * at.z_slope
    delta_r = (delta_n * at.a if reset_after else carry * (U_n @ delta_n)) * at.r_slope
    dU_n = np.outer(carry, delta_n * at.r) if reset_after else np.outer(carry * at.r, delta_n)
    dU = np.hstack([np.outer(carry, delta_r), np.outer(carry, delta_z), dU_n])
    fused = np.concatenate([delta_r, delta_z, delta_n])
    return _gradients(weights, x, fused, dU, candidate_recurrent_bias=at.r * delta_n)


def run(step: Step, xs: Array, carry: Array) -> Pair:
    """The plain loop: carries (T + 1, S), the initial one first, and ys (T, O)."""
    carries, ys = [carry], []
    for x in xs:
        carry, y = step(carry, x)
        carries.append(carry)
        ys.append(y)
    return np.stack(carries), np.stack(ys)


def one_step_jacobians(jacobian: Step, carries: Array, xs: Array) -> Pair:
    """As (T, S, S), Bs (T, S, I) along a trajectory (T + 1, S), by a hand-derived `jacobian`."""
    pairs = [jacobian(carry, x) for carry, x in zip(carries[:-1], xs, strict=True)]
    return np.stack([A for A, _ in pairs]), np.stack([B for _, B in pairs])


def finite_difference_jacobians(step: Step, carries: Array, xs: Array, width: float = 1e-3) -> Pair:
    """As, Bs by Richardson on central D: (4 D(width / 2) - D(width)) / 3, not across a kink."""

    def jacobian(f: Callable[[Array], Array], at: Array) -> Array:
        def central(w: float) -> Array:
            return np.stack([f(at + e) - f(at - e) for e in w * np.eye(len(at))], axis=1) / (2 * w)

        return (4 * central(width / 2) - central(width)) / 3

    def both(a: Array, x: Array) -> Pair:
        return jacobian(lambda v: step(v, x)[0], a), jacobian(lambda v: step(a, v)[0], x)

    return one_step_jacobians(both, carries, xs)


def state_jacobian(As: Array) -> Array:
    """(T, S, T, S): d carry_t / d carry_s = A_t ... A_{s+1}; identity at s = t, 0 for s > t."""
    T, S, _ = As.shape
    out = np.zeros((T, S, T, S))
    for s in range(T):
        out[s, :, s, :] = np.eye(S)
        for t in range(s + 1, T):
            out[t, :, s, :] = As[t] @ out[t - 1, :, s, :]
    return out


def input_jacobian(As: Array, Bs: Array, output_rows: slice) -> Array:
    """(T, H, T, I): d y_t / d x_s = rows(A_t ... A_{s+1} B_s); 0 for s > t."""
    return np.einsum("tasb,sbi->tasi", state_jacobian(As)[:, output_rows], Bs)


def backprop_signal(As: Array, dL_dys: Array, output_rows: slice) -> Array:
    """Total dL/dcarry_t (T, S): total_t = direct_t + A_{t+1}^T total_{t+1}."""
    totals = np.zeros(As.shape[:2])
    totals[:, output_rows] = dL_dys
    for t in reversed(range(len(As) - 1)):
        totals[t] += As[t + 1].T @ totals[t + 1]
    return totals


def weight_gradient_by_step(gradient: Grad, carries: Array, xs: Array, totals: Array) -> Weights:
    """{name: (T, *shape)}, each step's own copy of the weights; totals by `backprop_signal`."""
    shares = [gradient(*at) for at in zip(carries[:-1], xs, totals, strict=True)]
    return {name: np.stack([share[name] for share in shares]) for name in shares[0]}


# m * 2**e with an exponent per entry: no entry under- or overflows, however small beside another.
Scaled = tuple[Array, NDArray[np.int64]]
_ZERO = -(2**40)  # exponent of an exact zero: below that of any number


def _scaled(matrix: Array, exponent: int | NDArray[np.int64] = 0) -> Scaled:
    if not np.isfinite(matrix).all():
        raise ValueError("a Jacobian is not finite")
    m, e = np.frexp(matrix)
    return m, np.where(m == 0, _ZERO, e + np.asarray(exponent, np.int64))


def _aligned(m: Array, e: NDArray[np.int64], top: NDArray[np.int64]) -> Array:
    return np.ldexp(m, np.maximum(e - top, -4000).astype(np.int32))  # below 2**-1074: 0


def _scaled_product(left: Scaled, right: Scaled) -> Scaled:
    """Entry (i, j): every term l_ik r_kj is brought to the largest exponent, then summed."""
    m = left[0][:, :, None] * right[0][None, :, :]
    e = left[1][:, :, None] + right[1][None, :, :]
    top = e.max(axis=1, keepdims=True)
    return _scaled(_aligned(m, e, top).sum(axis=1), top[:, 0])


def log_norms(
    As: Array,
    Bs: Array,
    output_rows: slice,
    targets: Sequence[int] | None = None,
    wrt: str = "input",
    norm: str = "fro",
) -> Array:
    """(T or len(targets), T): log ||d y_t / d x_s||, or of d carry_t / d carry_s if wrt="state"."""
    T, S, _ = As.shape
    rows = np.eye(S)[{"input": output_rows, "state": slice(None)}[wrt]]
    targets = range(T) if targets is None else targets
    out = np.full((len(targets), T), -np.inf)
    for index, t in enumerate(targets):
        product = _scaled(rows)  # those of A_t ... A_{s+1}
        for s in range(t, -1, -1):
            entry = _scaled_product(product, _scaled(Bs[s])) if wrt == "input" else product
            top = entry[1].max()
            if top > _ZERO:
                value = np.linalg.norm(_aligned(*entry, top), {"fro": "fro", "spectral": 2}[norm])
                out[index, s] = np.log(value) + top * np.log(2)
            product = _scaled_product(product, _scaled(As[s]))
    return out


def mp_log_norm(
    As: Array, Bs: Array, output_rows: slice, t: int, s: int, wrt: str = "input", norm: str = "fro"
) -> float:
    """One entry of `log_norms`, with mpmath matrices of 50 digits (exponents unbounded)."""
    if s > t:
        return -np.inf
    with mpmath.workdps(50):
        rows = np.eye(As.shape[1])[{"input": output_rows, "state": slice(None)}[wrt]]
        product = mpmath.matrix((Bs[s] if wrt == "input" else np.eye(As.shape[1])).tolist())
        for A in As[s + 1 : t + 1]:
            product = mpmath.matrix(A.tolist()) * product
        product = mpmath.matrix(rows.tolist()) * product
        fro = mpmath.sqrt(mpmath.fsum(abs(v) ** 2 for v in product))
        if {"fro": True, "spectral": fro == 0}[norm]:
            return float(mpmath.log(fro))
        unit = product / fro  # the iteration inside svd_r stops at absolute tolerances
        singular = mpmath.svd_r(unit, compute_uv=False)
        return float(mpmath.log(fro) + mpmath.log(max(singular)))
