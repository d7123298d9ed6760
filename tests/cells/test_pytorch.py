"""Our cells against PyTorch with the same weights: outputs, final states and all gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rnn_jax as rj
import zoo

torch = pytest.importorskip("torch")

IN, H, T, B = 3, 4, 9, 2
NAMES = ["simple_tanh", "simple_relu", "lstm", "gru_reset_after"]


def torch_twin(name, cell):
    """The PyTorch module with our weights; it has two biases where we have one."""
    make, options = {
        "simple_tanh": (torch.nn.RNN, {"nonlinearity": "tanh"}),
        "simple_relu": (torch.nn.RNN, {"nonlinearity": "relu"}),
        "lstm": (torch.nn.LSTM, {}),
        "gru_reset_after": (torch.nn.GRU, {}),
    }[name]
    module = make(IN, H, batch_first=True, dtype=torch.float64, **options)
    weights = zoo.weights_of(cell)
    second = np.zeros_like(weights["bias"])
    if name == "gru_reset_after":
        second[2 * H :] = weights["candidate_recurrent_bias"]
    with torch.no_grad():
        module.weight_ih_l0.copy_(torch.tensor(weights["kernel"].T))
        module.weight_hh_l0.copy_(torch.tensor(weights["recurrent_kernel"].T))
        module.bias_ih_l0.copy_(torch.tensor(weights["bias"]))
        module.bias_hh_l0.copy_(torch.tensor(second))
    return module


@pytest.mark.parametrize("name", NAMES)
def test_outputs_states_and_gradients_are_those_of_pytorch(name):
    cell = zoo.CELLS[name](IN, H, 7)
    carry = zoo.random_carry(cell, 7, B)
    rng = np.random.default_rng(0)
    xs, weight_y = rng.normal(size=(B, T, IN)), rng.normal(size=(B, T, H))
    parts = [np.array(part) for part in jax.tree.leaves(carry)]
    weight_end = [rng.normal(size=(B, H)) for _ in parts]

    def loss(cell, xs, carry):
        end, ys = rj.unroll(cell, xs, carry)
        ends = jax.tree.leaves(end)
        value = jnp.sum(weight_y * ys)
        for weight, part in zip(weight_end, ends, strict=True):
            value = value + jnp.sum(weight * part)
        return value, (ends, ys)

    (_, (ends, ys)), gradients = jax.jit(jax.value_and_grad(loss, (0, 1, 2), has_aux=True))(
        cell, jnp.asarray(xs), carry
    )

    module = torch_twin(name, cell)
    t_xs = torch.tensor(xs, requires_grad=True)
    t_parts = [torch.tensor(part, requires_grad=True) for part in parts]
    # PyTorch wants a leading layer axis, and (h, c) where we have (c, h).
    states = [part[None] for part in reversed(t_parts)]
    t_ys, t_end = module(t_xs, tuple(states) if len(states) > 1 else states[0])
    t_ends = [end[0] for end in (reversed(t_end) if len(states) > 1 else [t_end])]
    value = (torch.tensor(weight_y) * t_ys).sum()
    for weight, end in zip(weight_end, t_ends, strict=True):
        value = value + (torch.tensor(weight) * end).sum()
    value.backward()

    def same(ours, theirs):
        np.testing.assert_allclose(ours, theirs.detach().numpy(), rtol=1e-11, atol=1e-12)

    same(ys, t_ys)
    for ours, theirs in zip(ends, t_ends, strict=True):
        same(ours, theirs)
    by_cell, by_xs, by_carry = gradients
    by_weight = zoo.weights_of(by_cell)
    same(by_xs, t_xs.grad)
    for ours, theirs in zip(jax.tree.leaves(by_carry), t_parts, strict=True):
        same(ours, theirs.grad)
    same(by_weight["kernel"].T, module.weight_ih_l0.grad)
    same(by_weight["recurrent_kernel"].T, module.weight_hh_l0.grad)
    same(by_weight["bias"], module.bias_ih_l0.grad)
    if name == "gru_reset_after":
        same(by_weight["candidate_recurrent_bias"], module.bias_hh_l0.grad[2 * H :])
    else:
        same(by_weight["bias"], module.bias_hh_l0.grad)


@pytest.mark.parametrize("name", ["simple_tanh", "lstm", "gru_reset_after"])
def test_lengths_are_those_of_a_packed_sequence(name):
    cell = zoo.CELLS[name](IN, H, 2)
    xs = np.random.default_rng(1).normal(size=(B, T, IN))
    lengths = [T, 4]
    end, ys = rj.unroll(cell, jnp.asarray(xs), lengths=jnp.asarray(lengths))
    packed = torch.nn.utils.rnn.pack_padded_sequence(
        torch.tensor(xs), torch.tensor(lengths), batch_first=True
    )
    with torch.no_grad():
        t_ys, t_end = torch_twin(name, cell)(packed)
    t_ys, _ = torch.nn.utils.rnn.pad_packed_sequence(t_ys, batch_first=True, total_length=T)
    np.testing.assert_allclose(ys, t_ys.numpy(), rtol=1e-11, atol=1e-12)
    t_ends = t_end[::-1] if isinstance(t_end, tuple) else [t_end]
    for ours, theirs in zip(jax.tree.leaves(end), t_ends, strict=True):
        np.testing.assert_allclose(ours, theirs[0].numpy(), rtol=1e-11, atol=1e-12)
