"""Keras' recurrent layers in plain NumPy, from the equations in its documentation.

keras.layers.GRU: blocks z (update), r (reset), h; "reset_after: whether to apply the reset gate
after or before the matrix multiplication", with a bias of two rows, the first added to the product
with x, the second to that with h. keras.layers.LSTM: blocks i, f, c, o.
"""

import numpy as np


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


def rnn(arrays, xs, phi=np.tanh):
    kernel, recurrent, bias = arrays
    h, ys = np.zeros(len(recurrent)), []
    for x in xs:
        h = phi(x @ kernel + bias + h @ recurrent)
        ys.append(h)
    return np.stack(ys)


def lstm(arrays, xs):
    kernel, recurrent, bias = arrays
    h, ys = np.zeros(len(recurrent)), []
    c = h
    for x in xs:
        i, f, g, o = np.split(x @ kernel + h @ recurrent + bias, 4)
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        h = sigmoid(o) * np.tanh(c)
        ys.append(h)
    return np.stack(ys)


def gru(arrays, xs):
    kernel, recurrent, bias = arrays
    h, ys = np.zeros(len(recurrent)), []
    reset_after = bias.ndim == 2
    of_x, of_h = bias if reset_after else (bias, np.zeros_like(bias))
    w_z, w_r, w_h = np.split(recurrent, 3, axis=1)
    b_z, b_r, b_h = np.split(of_h, 3)
    for x in xs:
        x_z, x_r, x_h = np.split(x @ kernel + of_x, 3)
        z = sigmoid(x_z + h @ w_z + b_z)
        r = sigmoid(x_r + h @ w_r + b_r)
        new = np.tanh(x_h + (r * (h @ w_h + b_h) if reset_after else (r * h) @ w_h))
        h = z * h + (1 - z) * new
        ys.append(h)
    return np.stack(ys)


def draw(kind, features, size, seed, reset_after=True):
    """Arrays as `get_weights` of a layer gives them."""
    rng = np.random.default_rng(seed)
    blocks = {"rnn": 1, "lstm": 4, "gru": 3}[kind]
    shape = (2, blocks * size) if kind == "gru" and reset_after else (blocks * size,)
    shapes = [(features, blocks * size), (size, blocks * size), shape]
    return [0.5 * rng.normal(size=shape) for shape in shapes]
