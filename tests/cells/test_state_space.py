"""LRU, S5, RG-LRU, LMU and the xLSTM cells against their equations, claims and initial weights."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from transcribed import CLOSE, IN, assert_follows, sigmoid

import rnn_jax as rj
from rnn_jax.cells import LMUCell, LRUCell, MLSTMCell, RGLRUCell, S5Cell, SLSTMCell
from rnn_jax.cells.lmu import legendre_memory
from rnn_jax.initializers.hippo import hippo_eigenvectors

# Two heads, two blocks.
H, T = 4, 6


# ---- The equations, of weights by name, in NumPy or in jax.numpy.


def lru(w, carry, x, xp):
    lam = xp.exp(-xp.exp(w["nu"]) + 1j * xp.exp(w["theta"]))
    b = w["kernel"][:, :H] + 1j * w["kernel"][:, H:]
    c = w["output_kernel"][:H] + 1j * w["output_kernel"][H:]
    h = lam * (carry[0] + 1j * carry[1]) + xp.exp(w["gamma"]) * (x @ b)
    y = xp.real(h @ c)
    return (xp.real(h), xp.imag(h)), y + w["skip"] * x if "skip" in w else y


def s5(w, carry, x, xp, stable=False):
    rate = -xp.exp(w["rate"][0]) if stable else w["rate"][0]
    rate = rate + 1j * w["rate"][1]
    lam = xp.exp(rate * xp.exp(w["log_step"]))
    b = w["kernel"][:, :H] + 1j * w["kernel"][:, H:]
    c = w["output_kernel"][:H] + 1j * w["output_kernel"][H:]
    h = lam * (carry[0] + 1j * carry[1]) + (lam - 1) / rate * (x @ b)
    y = 2 * xp.real(h @ c)
    return (xp.real(h), xp.imag(h)), y + w["skip"] * x if "skip" in w else y


def rg_lru(w, carry, x, xp):
    u = x @ w["kernel"] if "kernel" in w else x
    pre = []
    for gate, bias in zip(w["gate_kernel"], w["gate_bias"], strict=True):
        width = gate.shape[-1]
        blocks = [u[n * width : (n + 1) * width] @ block for n, block in enumerate(gate)]
        pre.append(xp.concatenate(blocks) + bias)
    r, i = (sigmoid(p, xp) for p in pre)
    a = xp.exp(-8 * r * xp.log(1 + xp.exp(w["decay"])))
    h = a * carry + xp.sqrt(1 - a**2) * (i * u)
    return h, h


def lmu(w, carry, x, xp, theta=5.0):
    m, h = carry
    d = m.shape[0]
    a, b = np.zeros((d, d)), np.zeros(d)
    for i in range(d):
        b[i] = (2 * i + 1) * (-1) ** i / theta
        for j in range(d):
            a[i, j] = (2 * i + 1) / theta * (-1 if i < j else (-1.0) ** (i - j + 1))
    values, vectors = np.linalg.eig(a)
    held = (vectors * np.exp(values)) @ np.linalg.inv(vectors)
    driven = np.linalg.solve(a, (held.real - np.eye(d)) @ b)
    e_x, w_x = w["kernel"][:, 0], w["kernel"][:, 1:]
    e_h, w_h = w["recurrent_kernel"][:, 0], w["recurrent_kernel"][:, 1:]
    u = x @ e_x + h @ e_h + m @ w["memory_encoder"][:, 0]
    m = held.real @ m + driven * u
    h = xp.tanh(x @ w_x + h @ w_h + m @ w["memory_kernel"])
    return (m, h), h


def slstm(w, carry, x, xp):
    """Without the stabiliser: c and n as they are, e^m c and e^m n of the cell."""
    c, n, m, h = carry
    heads, width, _ = w["recurrent_kernel"].shape
    pre = [
        x @ w["kernel"][:, k * H : (k + 1) * H] + w["bias"][k * H : (k + 1) * H] for k in range(4)
    ]
    for k in range(4):
        r = w["recurrent_kernel"][:, :, k * width : (k + 1) * width]
        parts = [h[a * width : (a + 1) * width] @ r[a] for a in range(heads)]
        pre[k] = pre[k] + xp.concatenate(parts)
    i, f = xp.exp(pre[0]), sigmoid(pre[1], xp)
    after_m = xp.maximum(pre[0], m + xp.log(f))
    c = f * c * xp.exp(m) + i * xp.tanh(pre[2])
    n = f * n * xp.exp(m) + i
    h = sigmoid(pre[3], xp) * c / n
    return (c * xp.exp(-after_m), n * xp.exp(-after_m), after_m, h), h


def mlstm(w, carry, x, xp):
    """Likewise without the stabiliser."""
    c, n, m = carry
    heads, d = n.shape
    z = x @ w["kernel"] + w["bias"]
    q, k, v = (z[j * H : (j + 1) * H].reshape(heads, d) for j in range(3))
    o = sigmoid(z[3 * H : 4 * H], xp)
    u_i, f = z[4 * H : 4 * H + heads], sigmoid(z[4 * H + heads :], xp)
    after_m = xp.maximum(u_i, m + xp.log(f))
    cs, ns, ys = [], [], []
    for a in range(heads):
        key = k[a] / math.sqrt(d)
        c_a = f[a] * c[a] * xp.exp(m[a]) + xp.exp(u_i[a]) * xp.outer(key, v[a])
        n_a = f[a] * n[a] * xp.exp(m[a]) + xp.exp(u_i[a]) * key
        floor = xp.maximum(xp.abs(n_a @ q[a]), 1.0) + 1e-6 * xp.exp(after_m[a])
        ys.append(c_a.T @ q[a] / floor)
        cs.append(c_a * xp.exp(-after_m[a]))
        ns.append(n_a * xp.exp(-after_m[a]))
    y = o * xp.concatenate(ys)
    return (xp.stack(cs), xp.stack(ns), after_m), y


MAKERS = {
    "lru": (LRUCell, {"r_min": 0.5, "r_max": 0.95}, lru),
    "lru_skip": (LRUCell, {"out_features": IN}, lru),
    "s5": (S5Cell, {}, s5),
    "s5_skip": (S5Cell, {"out_features": IN}, s5),
    "s5_stable": (S5Cell, {"stable": True}, functools.partial(s5, stable=True)),
    "rg_lru": (RGLRUCell, {"num_blocks": 2}, rg_lru),
    "lmu": (LMUCell, {"memory_features": 3, "theta": 5.0}, lmu),
    "slstm": (SLSTMCell, {}, slstm),
    "slstm_heads": (SLSTMCell, {"num_heads": 2}, slstm),
    "mlstm": (MLSTMCell, {}, mlstm),
    "mlstm_heads": (MLSTMCell, {"num_heads": 2}, mlstm),
}


def build(name, seed=0):
    """The cell, with noise on weights that start at a constant."""
    make, options, _ = MAKERS[name]
    cell = make(IN, H, rngs=nnx.Rngs(seed), **options)
    rng = np.random.default_rng(seed)
    for weight in ("bias", "gate_bias", "recurrent_kernel", "memory_encoder", "rate", "kernel"):
        param = getattr(cell, weight, None)
        if isinstance(param, nnx.Param):
            param[...] = param[...] + 0.3 * jnp.asarray(rng.normal(size=param.shape))
    if name.startswith("slstm"):  # Or most units would forget at once.
        param = cell.bias
        param[...] = 0.2 * param[...]
    return cell


def carry_of(cell, seed=3):
    """A carry that a run could have: normalisers are positive."""
    rng = np.random.default_rng(seed)
    shapes = cell.carry_shapes
    parts = [jnp.asarray(rng.normal(size=shape)) for shape in shapes.values()]
    if isinstance(cell, SLSTMCell):
        parts[1] = 1 + jnp.abs(parts[1])
    return tuple(parts) if len(parts) > 1 else parts[0]


def xs_of(seed=0, steps=T):
    return jnp.asarray(np.random.default_rng(seed).normal(size=(steps, IN)))


@pytest.mark.parametrize("name", MAKERS)
def test_it_is_its_equations(name):
    cell = build(name)

    def seen(end, xp):  # The stabiliser of an sLSTM cannot be seen, only what it stands for.
        if not name.startswith("slstm"):
            return end
        c, n, m, h = end
        return c * xp.exp(m), n * xp.exp(m), h

    assert_follows(cell, MAKERS[name][2], carry_of(cell), seen)


@pytest.mark.parametrize("name", MAKERS)
def test_products_may_be_narrower_than_the_carry(name):
    make, options, _ = MAKERS[name]
    xs = xs_of().astype(jnp.float32)

    def built(**types):
        return make(IN, H, param_dtype=jnp.float32, rngs=nnx.Rngs(0), **types, **options)

    mixed = built(dtype=jnp.bfloat16, carry_dtype=jnp.float32)
    carry, rounded = rj.unroll(mixed, xs)
    assert {leaf.dtype for leaf in jax.tree.leaves((carry, rounded))} == {jnp.dtype("float32")}
    _, ys = rj.unroll(built(), xs)
    np.testing.assert_allclose(rounded, ys, rtol=0.1, atol=0.05 * float(jnp.abs(ys).max()))


# ---- Initial weights.

MANY = 4096


def test_lru_starts_uniform_in_the_ring():
    cell = LRUCell(3, MANY, r_min=0.4, r_max=0.9, max_phase=0.5, rngs=nnx.Rngs(0))
    lam = cell.eigenvalues()
    modulus, phase = np.hypot(*lam), np.arctan2(lam[1], lam[0])
    area = (modulus**2 - 0.4**2) / (0.9**2 - 0.4**2)
    for uniform in (area, phase / 0.5):
        assert uniform.min() > -1e-12
        assert uniform.max() < 1 + 1e-12
        np.testing.assert_allclose([uniform.mean(), uniform.var()], [1 / 2, 1 / 12], atol=0.02)
    np.testing.assert_allclose(np.exp(cell.gamma[...]), np.sqrt(1 - modulus**2), rtol=1e-9)
    np.testing.assert_allclose(cell.kernel[...].var(), 1 / (2 * 3), rtol=0.05)
    np.testing.assert_allclose(
        LRUCell(2, 512, rngs=nnx.Rngs(0)).output_kernel[...].var(), 1 / 512, rtol=0.05
    )


def test_lru_keeps_the_variance_of_white_inputs():
    """Its gain: states have the inputs' variance, whatever the modulus."""
    cell = LRUCell(1, 64, r_min=0.8, r_max=0.98, rngs=nnx.Rngs(0))
    # |B|² has mean 1/I, here of one input.
    cell.kernel[...] = jnp.concatenate([jnp.ones((1, 64)), jnp.zeros((1, 64))], axis=1)
    xs = jnp.asarray(np.random.default_rng(0).normal(size=(20_000, 1)))
    _, _, (real, imaginary) = rj.unroll(cell, xs, return_carries=True)
    variance = np.mean(np.asarray(real[500:] ** 2 + imaginary[500:] ** 2), axis=0)
    np.testing.assert_allclose(variance, 1, rtol=0.25)


def test_s5_starts_at_hippo():
    n = 2 * H
    a = np.zeros((n, n))
    for i in range(n):
        for k in range(i + 1):
            a[i, k] = -(i + 1) if i == k else -np.sqrt(2 * i + 1) * np.sqrt(2 * k + 1)
    p = np.sqrt(np.arange(n) + 0.5)
    normal = a + np.outer(p, p)
    phases, vectors = hippo_eigenvectors(H)
    assert (phases > 0).all()
    np.testing.assert_allclose(normal @ vectors, vectors * (-0.5 + 1j * phases), atol=1e-12)
    cell = S5Cell(IN, H, out_features=3, rngs=nnx.Rngs(0))
    np.testing.assert_allclose(cell.rate[...], np.stack([np.full(H, -0.5), phases]), **CLOSE)
    steps = S5Cell(IN, 64, rngs=nnx.Rngs(0)).log_step[...]
    assert math.log(0.001) <= steps.min() < steps.max() <= math.log(0.1)
    # The pair of conjugates is a real system: y = C₀ V h, and B = V* B₀ for real B₀ and C₀.
    kernel, out = np.asarray(cell.kernel[...]), np.asarray(cell.output_kernel[...])
    b, c = (kernel[:, :H] + 1j * kernel[:, H:]).T, (out[:H] + 1j * out[H:]).T
    whole = np.concatenate([vectors, vectors.conj()], axis=1)
    real_b = whole @ np.concatenate([b, b.conj()])
    real_c = np.concatenate([c, c.conj()], axis=1) @ whole.conj().T
    np.testing.assert_allclose(real_b.imag, 0, atol=1e-12)
    np.testing.assert_allclose(real_c.imag, 0, atol=1e-12)
    big = S5Cell(5, 256, rngs=nnx.Rngs(1))
    # |V* B₀|² has the mean of B₀², of its real and imaginary parts together.
    np.testing.assert_allclose(2 * big.kernel[...].var(), 1 / 5, rtol=0.1)


def test_rg_lru_starts_between_its_decays():
    cell = RGLRUCell(2, MANY, num_blocks=MANY // 4, rngs=nnx.Rngs(0))
    a = np.exp(-8 * np.log1p(np.exp(np.asarray(cell.decay[...]))))
    uniform = (a - 0.9) / 0.099
    assert uniform.min() > -1e-9
    assert uniform.max() < 1 + 1e-9
    np.testing.assert_allclose([uniform.mean(), uniform.var()], [1 / 2, 1 / 12], atol=0.02)
    np.testing.assert_allclose(cell.gate_kernel[...].var(), 1 / 4, rtol=0.05)
    assert not cell.gate_bias[...].any()


def test_rg_lru_scales_its_input_to_the_last_digit():
    """√(1 − a²) where a is near 1, in float32, and its derivative where a is 1."""
    cell = RGLRUCell(1, 1, input_map=False, param_dtype=jnp.float32, rngs=nnx.Rngs(0))
    for gate in (-30.0, -100.0):
        cell.gate_bias[...] = jnp.asarray([[gate], [0.0]], jnp.float32)
        cell.gate_kernel[...] = 0 * cell.gate_kernel[...]
        z = np.asarray(cell.project(jnp.ones((1,), jnp.float32)), np.float64)
        s = math.log1p(math.exp(float(cell.decay[...][0])))
        expected = 0.5 * math.sqrt(-math.expm1(-16 * s * math.exp(gate)))
        np.testing.assert_allclose(z[1], expected, rtol=1e-5)
        gradient = jax.grad(lambda cell: cell.project(jnp.ones((1,), jnp.float32))[1])(cell)
        # ∂√w/∂p is √w / 2 there.
        np.testing.assert_allclose(gradient.gate_bias[...][0, 0], expected / 2, rtol=1e-5)


def test_lmu_remembers_a_window():
    """Σ m_i is what was written θ steps ago; the memory's own Jacobian is Ā."""
    theta, order, steps = 50.0, 12, 300
    cell = LMUCell(1, 2, memory_features=order, theta=theta, rngs=nnx.Rngs(0))
    cell.recurrent_kernel[...] = 0 * cell.recurrent_kernel[...]
    cell.kernel[...] = cell.kernel[...].at[0, 0].set(1.0)
    time = np.arange(steps)
    signal = np.sin(2 * np.pi * time / 60)
    _, _, (m, _) = rj.unroll(cell, jnp.asarray(signal)[:, None], return_carries=True)
    decoded = np.asarray(m).sum(axis=1)
    # A zero-order hold is late by half a step.
    np.testing.assert_allclose(
        decoded[150:], np.sin(2 * np.pi * (time[150:] - theta + 0.5) / 60), atol=0.02
    )
    found = rj.linearize(cell, jnp.asarray(signal)[:3, None]).state_jacobians[:, :order, :order]
    a, _ = legendre_memory(order, theta)
    np.testing.assert_allclose(found, np.broadcast_to(a, found.shape), **CLOSE)
    assert np.abs(np.linalg.eigvals(a)).max() < 1


def test_lmu_weights_start_as_in_the_paper():
    cell = LMUCell(300, 200, memory_features=100, rngs=nnx.Rngs(0))
    assert not cell.memory_encoder[...].any()
    for kernel, rows in ((cell.kernel, 300), (cell.recurrent_kernel, 200)):
        encoder, rest = kernel[...][:, 0], kernel[...][:, 1:]
        assert np.abs(encoder).max() <= math.sqrt(3 / rows)
        np.testing.assert_allclose(encoder.var(), 1 / rows, rtol=0.25)
        np.testing.assert_allclose(rest.var(), 2 / (rows + 200), rtol=0.05)


def test_slstm_starts_with_forget_biases_along_a_power():
    cell = SLSTMCell(300, 200, num_heads=2, depth=0.5, rngs=nnx.Rngs(0))
    assert not cell.recurrent_kernel[...].any()
    bias = np.asarray(cell.bias[...]).reshape(4, 2, 100)
    expected = 5 - 12 * (np.arange(100) / 99) ** (0.3 + 1.3 * 0.5)
    np.testing.assert_allclose(bias[1], np.stack([expected] * 2), **CLOSE)
    assert not bias[[0, 2, 3]].any()
    np.testing.assert_allclose(cell.kernel[...].var(), 2 / (5 * 300), rtol=0.05)


def test_mlstm_starts_with_gates_that_see_no_input():
    cell = MLSTMCell(300, 256, num_heads=128, rngs=nnx.Rngs(0))
    kernel, bias = np.asarray(cell.kernel[...]), np.asarray(cell.bias[...])
    assert not kernel[:, 4 * 256 :].any()
    assert not bias[: 4 * 256].any()
    np.testing.assert_allclose(kernel[:, : 4 * 256].var(), 2 / (5 * 300), rtol=0.05)
    np.testing.assert_allclose(bias[-128:], np.linspace(3, 6, 128), rtol=1e-6)
    np.testing.assert_allclose(bias[4 * 256 : -128].std(), 0.1, rtol=0.25)


# ---- Claims about gradients.


@pytest.mark.parametrize("name", ["lru", "s5"])
def test_gradients_of_complex_states_fall_as_powers_of_the_eigenvalue(name):
    cell, xs = build(name), xs_of(steps=30)
    found = rj.jacobian_log_singular_values(cell, xs)
    modulus = np.sort(np.log(np.hypot(*np.asarray(cell.eigenvalues()))))[::-1]
    np.testing.assert_allclose(found, 30 * np.repeat(modulus, 2), rtol=1e-9)


def test_gradients_of_the_rg_lru_are_products_of_its_decays():
    cell, xs = build("rg_lru"), xs_of(steps=30)
    found = rj.jacobian_log_singular_values(cell, xs)
    log_a = np.asarray(jax.vmap(cell.project)(xs))[:, :H].sum(axis=0)
    np.testing.assert_allclose(found, np.sort(log_a)[::-1], rtol=1e-9)


def test_slstm_reads_nothing_but_the_ratio():
    cell, x = build("slstm"), xs_of()[0]
    c, n, m, h = carry_of(cell)
    along = (c, n, -jnp.ones_like(m), jnp.zeros_like(h))
    moved = jax.jvp(lambda carry: cell(carry, x)[1], ((c, n, m, h),), (along,))[1]
    np.testing.assert_allclose(moved, 0, atol=1e-13)


def test_mlstm_hands_its_memory_on_with_its_forget_gates():
    cell, xs = build("mlstm_heads"), xs_of(steps=20)
    carry = carry_of(cell)

    def memory(c):
        (c, _, m), _ = rj.unroll(cell, xs, (c, *carry[1:]))
        return c * jnp.exp(m)[:, None, None]

    along = jnp.ones_like(carry[0])
    moved = jax.jvp(memory, (carry[0],), (along,))[1]
    u_f = np.asarray(jax.vmap(cell.project)(xs))[:, -2:]
    expected = np.exp(carry[2]) * np.prod(1 / (1 + np.exp(-u_f)), axis=0)
    np.testing.assert_allclose(
        moved, np.broadcast_to(expected[:, None, None], moved.shape), rtol=1e-11
    )


# ---- Bad arguments.

BAD = [
    (LRUCell, {"r_min": 0.9, "r_max": 0.8}, ValueError, "r_min and r_max must be"),
    (LRUCell, {"r_max": 1.5}, ValueError, "got 0 and 1.5"),
    (LRUCell, {"max_phase": 0.0}, ValueError, "max_phase must lie"),
    (LRUCell, {"out_features": 0}, ValueError, "out_features must be at least 1"),
    (S5Cell, {"step_min": 0.0}, ValueError, "step_min and step_max must be"),
    (S5Cell, {"stable": 1}, TypeError, "stable must be True or False"),
    (RGLRUCell, {"num_blocks": 3}, ValueError, "num_blocks must divide hidden_features=4; got 3"),
    (RGLRUCell, {"a_max": 1.0}, ValueError, "a_min and a_max must be"),
    (RGLRUCell, {"input_map": False}, ValueError, "input_map=False needs"),
    (RGLRUCell, {"kernel_init": "none"}, ValueError, "kernel_init must be one of"),
    (LMUCell, {"theta": 0}, ValueError, "theta must be above 0"),
    (LMUCell, {"memory_features": 0}, ValueError, "memory_features must be at least 1"),
    (SLSTMCell, {"num_heads": 3}, ValueError, "num_heads must divide"),
    (SLSTMCell, {"depth": 2}, ValueError, "depth must lie in"),
    (MLSTMCell, {"num_heads": 0}, ValueError, "num_heads must be at least 1"),
    (MLSTMCell, {"param_dtype": int}, TypeError, "param_dtype must be a floating-point type"),
    (LRUCell, {"rngs": 0}, TypeError, "rngs must be a flax.nnx.Rngs"),
]


@pytest.mark.parametrize(("make", "options", "error", "message"), BAD)
def test_bad_arguments_are_refused(make, options, error, message):
    with pytest.raises(error, match=message):
        make(IN, H, **{"rngs": nnx.Rngs(0), **options})


@pytest.mark.parametrize("name", MAKERS)
def test_bad_calls_are_refused(name):
    cell = build(name)
    carry = cell.initialize_carry((IN,))
    with pytest.raises(ValueError, match="in_features=2; got shape"):
        cell(carry, jnp.ones(IN + 1))
    with pytest.raises(TypeError, match="real numbers"):
        cell(carry, jnp.ones(IN, complex))
    with pytest.raises(ValueError, match="carry must be"):
        cell(jax.tree.map(lambda a: a[1:], carry), jnp.ones(IN))
    with pytest.raises(TypeError, match="input_shape must be a tuple"):
        cell.initialize_carry(IN)
