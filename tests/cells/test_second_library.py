"""Our cells against those of other libraries with the same weights: values and all gradients.

A peer is one step of another library's cell as a function of *our* weights, so that PyTorch's
gradients are by these as well. Where torchrecurrent (0.2.5) computes something else than the
papers: its `LEMCell` is left out, because its y sees the old z; the gate of its `FastGRNNCell` is a
tanh unless an option says sigmoid; the second bias of its `GatedAntisymmetricRNNCell`, which the
gate does not see, is 0 here. Initial weights are not compared: its own are others.
"""

import importlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from transcribed import noisy, random_carry, weights_of

import rnn_jax as rj

torch = pytest.importorskip("torch")

IN, H, T, B, HEADS = 2, 4, 5, 2, 2
FLOAT = torch.float64


class Peer(NamedTuple):
    """A cell of ours, and `step(weights, parts of the carry, x) -> (parts, y)` of another's."""

    library: str
    cell: Callable[..., Any]
    options: dict[str, Any]
    step: Callable[[Any], Callable[..., Any]]  # from the library's module


def torchrecurrent_step(name, renamed, **options):
    """`renamed(weights)` gives the library's; its second biases, which it does not, stay 0."""

    def bind(library):
        cell = getattr(library, name)(IN, H, dtype=FLOAT, **options)

        def step(weights, parts, x):
            state = parts if len(parts) > 1 else parts[0]
            after = torch.func.functional_call(cell, renamed(weights), (x, state))
            parts = after if isinstance(after, tuple) else (after,)
            return parts, parts[0]

        return step

    return bind


def by_input(w):
    return {"weight_ih": w["kernel"].T, "bias_ih": w["bias"]}


def usual(w):
    return by_input(w) | {"weight_hh": w["recurrent_kernel"].T}


def blocks_swapped(w):
    return {name: torch.roll(value, H, 0) for name, value in usual(w).items()}


def of_indrnn(w):
    return by_input(w) | {"vector_u": w["recurrent_weights"]}


def of_minimal_rnn(w):
    """Its second bias is that of the gate."""
    return {
        "weight_ih": w["kernel"].T,
        "weight_hh": w["recurrent_kernel"].T,
        "weight_mm": w["input_kernel"].T,
        "bias_hh": w["bias"],
    }


def of_fast_grnn(w):
    biases = torch.cat([w["gate_bias"], w["bias"]])
    return usual(w) | {"bias_ih": biases, "zeta": w["zeta"][None], "nu": w["nu"][None]}


def of_gated_antisymmetric(w):
    return blocks_swapped(w) | {"weight_hh": w["recurrent_kernel"].T}


def of_cornn(w):
    by_y, by_z = w["recurrent_kernel"].split(H)
    return by_input(w) | {"weight_hh": by_y.T, "weight_ch": by_z.T}


def of_unicornn(w):
    return by_input(w) | {"weight_hh": w["recurrent_kernel"], "weight_ch": w["time_scale"]}


def cfc_step(library):
    cell = library.CfCCell(IN, H, backbone_units=5, backbone_layers=2).to(FLOAT)

    def step(w, parts, x):
        weights = {
            "backbone.0.weight": torch.cat([w["kernel"], w["recurrent_kernel"]]).T,
            "backbone.0.bias": w["bias"],
            "backbone.2.weight": w["backbone_kernels"][0].T,
            "backbone.2.bias": w["backbone_biases"][0],
        }
        heads = zip(w["head_kernel"].split(H, 1), w["head_bias"].split(H), strict=True)
        for name, (kernel, bias) in zip(("ff1", "ff2", "time_a", "time_b"), heads, strict=True):
            weights |= {f"{name}.weight": kernel.T, f"{name}.bias": bias}
        y, h = torch.func.functional_call(cell, weights, (x, parts[0], 0.8))
        return (h,), y

    return step


def slstm_step(library):
    options = {"backend": "vanilla", "output_shape": "BSH", "dtype": "float32"}
    config = library.sLSTMCellConfig(hidden_size=H, num_heads=HEADS, **options)
    cell = library.sLSTMCell(config).to(FLOAT)

    def step(w, parts, x):
        by_gate = w["recurrent_kernel"].reshape(HEADS, H // HEADS, 4, H // HEADS)
        weights = {
            "_recurrent_kernel_": cell._recurrent_kernel_ext2int(by_gate),
            "_bias_": w["bias"],
        }
        c, n, m, h = parts
        inputs = (x @ w["kernel"])[:, None]
        y, state = torch.func.functional_call(cell, weights, (inputs, torch.stack([h, c, n, m])))
        h, c, n, m = state
        return (c, n, m, h), y[:, 0]

    return step


def mlstm_step(library):
    def step(w, parts, x):
        blocks = [H, H, H, H, HEADS, HEADS]
        *heads, gate, i, f = (x @ w["kernel"] + w["bias"]).split(blocks, -1)
        # Clones, because the library changes their shapes in place.
        q, k, v = (block.reshape(B, HEADS, 1, H // HEADS).clone() for block in heads)
        C, n, m = parts
        h, (C, n, m) = library.recurrent_step_stabilized_simple(
            C, n[..., None], m[..., None, None], q, k, v, i[..., None, None], f[..., None, None]
        )
        return (C, n[..., 0], m[..., 0, 0]), torch.sigmoid(gate) * h.reshape(B, H)

    return step


ANTISYMMETRIC = {"epsilon": 0.3, "gamma": 0.1}
CORNN = {"gamma": 2.7, "epsilon": 4.7}
HEADED = {"num_heads": HEADS}


def of_torchrecurrent(cell, name, renamed, ours=None, **theirs):
    step = torchrecurrent_step(name, renamed, **theirs)
    return Peer("torchrecurrent", cell, ours or {}, step)


PEERS = {
    "IndRNN": of_torchrecurrent(rj.cells.IndRNNCell, "IndRNNCell", of_indrnn, nonlinearity="relu"),
    "MGU": of_torchrecurrent(rj.cells.MGUCell, "MGUCell", usual),
    "UGRNN": of_torchrecurrent(rj.cells.UGRNNCell, "UGRNNCell", blocks_swapped),
    "minimalRNN": of_torchrecurrent(rj.cells.MinimalRNNCell, "MinimalRNNCell", of_minimal_rnn),
    "FastGRNN": of_torchrecurrent(
        rj.cells.FastGRNNCell, "FastGRNNCell", of_fast_grnn, nonlinearity="sigmoid"
    ),
    "antisymmetric": of_torchrecurrent(
        rj.cells.AntisymmetricRNNCell, "AntisymmetricRNNCell", usual, ANTISYMMETRIC, **ANTISYMMETRIC
    ),
    "antisymmetric_gated": of_torchrecurrent(
        rj.cells.AntisymmetricRNNCell,
        "GatedAntisymmetricRNNCell",
        of_gated_antisymmetric,
        {"gated": True, **ANTISYMMETRIC},
        **ANTISYMMETRIC,
    ),
    "coRNN": of_torchrecurrent(
        rj.cells.CoRNNCell, "coRNNCell", of_cornn, {"time_step": 0.3, **CORNN}, dt=0.3, **CORNN
    ),
    "UnICORNN": of_torchrecurrent(
        rj.cells.UnICORNNCell,
        "UnICORNNCell",
        of_unicornn,
        {"time_step": 0.3, "alpha": 0.9},
        dt=0.3,
        alpha=0.9,
    ),
    "CfC": Peer(
        "ncps.torch",
        rj.cells.CfCCell,
        {"backbone_features": 5, "backbone_layers": 2, "elapsed": 0.8},
        cfc_step,
    ),
    "sLSTM": Peer("xlstm.blocks.slstm.cell", rj.cells.SLSTMCell, HEADED, slstm_step),
    "mLSTM": Peer("xlstm.blocks.mlstm.backends", rj.cells.MLSTMCell, HEADED, mlstm_step),
}


def library_of(peer):
    name = peer.library.partition(".")[0]
    pytest.importorskip(name, reason=f"{name} is not installed: pip install {name}")
    return importlib.import_module(peer.library)


def weighted_sum(weights, values):
    return sum((w * v).sum() for w, v in zip(weights, values, strict=True))


def ours(cell, carry, xs, draws):
    """Outputs and end of `unroll`, and the gradients of a random weighting of both."""

    def loss(cell, carry, xs):
        end, ys = rj.unroll(cell, xs, carry)
        values = [ys, *jax.tree.leaves(end)]
        return weighted_sum(draws, values), values

    (_, values), gradients = jax.jit(jax.value_and_grad(loss, (0, 1, 2), has_aux=True))(
        cell, carry, xs
    )
    by_cell, by_carry, by_xs = gradients
    return values, weights_of(by_cell) | named_parts(jax.tree.leaves(by_carry)) | {"xs": by_xs}


def theirs(step, weights, parts, xs, draws):
    """The same of the other library's steps."""
    inputs = weights | named_parts(parts) | {"xs": xs}
    leaves = {
        name: torch.tensor(np.asarray(value), requires_grad=True) for name, value in inputs.items()
    }
    carried = tuple(leaves[name] for name in named_parts(parts))
    ys = []
    for x in leaves["xs"].unbind(1):
        carried, y = step(leaves, carried, x)
        ys.append(y)
    values = [torch.stack(ys, 1), *carried]
    weighted_sum([torch.tensor(draw) for draw in draws], values).backward()
    return [v.detach().numpy() for v in values], {k: v.grad.numpy() for k, v in leaves.items()}


def named_parts(parts):
    return {f"part {k} of the carry": part for k, part in enumerate(parts)}


@pytest.mark.parametrize("name", PEERS)
def test_values_and_gradients_are_those_of_another_library(name):
    peer = PEERS[name]
    step = peer.step(library_of(peer))
    cell = noisy(peer.cell(IN, H, rngs=nnx.Rngs(0), **peer.options))
    # A normaliser, where there is one, is positive.
    one = random_carry(cell, low=0.1 if "n" in cell.carry_parts else -1.0)
    carry = jax.tree.map(lambda a: jnp.stack([a, 0.5 * a]), one)
    rng = np.random.default_rng(3)
    xs = rng.normal(size=(B, T, IN))
    parts = jax.tree.leaves(carry)
    draws = [rng.normal(size=(B, T, H)), *(rng.normal(size=part.shape) for part in parts)]

    values, gradients = ours(cell, carry, jnp.asarray(xs), draws)
    known, exact = theirs(step, weights_of(cell), parts, xs, draws)
    for found, expected in zip(values, known, strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12)
    assert set(gradients) == set(exact)
    for where, expected in exact.items():
        np.testing.assert_allclose(
            gradients[where], expected, rtol=1e-11, atol=1e-12, err_msg=where
        )


@pytest.mark.parametrize("name", ["sLSTM", "mLSTM"])
def test_a_sequence_starts_as_in_the_authors_library(name):
    """There a stabiliser starts at 0 and a state of zeros is a case of its own."""
    peer = PEERS[name]
    library = library_of(peer)
    cell = noisy(peer.cell(IN, H, rngs=nnx.Rngs(0), **peer.options))
    xs = np.random.default_rng(4).normal(size=(B, T, IN))
    _, ys = rj.unroll(cell, jnp.asarray(xs))
    weights = {k: torch.tensor(v) for k, v in weights_of(cell).items()}
    if name == "sLSTM":
        step, parts, known = peer.step(library), (torch.zeros(B, H, dtype=FLOAT),) * 4, []
        for x in torch.tensor(xs).unbind(1):
            parts, y = step(weights, parts, x)
            known.append(y)
        known = torch.stack(known, 1)
    else:
        blocks = [H, H, H, H, HEADS, HEADS]
        *rest, i, f = (torch.tensor(xs) @ weights["kernel"] + weights["bias"]).split(blocks, -1)
        q, k, v, gate = (b.reshape(B, T, HEADS, -1).transpose(1, 2) for b in rest)
        of_heads = [g.transpose(1, 2)[..., None] for g in (i, f)]
        h = library.parallel_stabilized_simple(q, k, v, *of_heads)
        known = (torch.sigmoid(gate) * h).transpose(1, 2).reshape(B, T, H)
    np.testing.assert_allclose(ys, known.numpy(), rtol=1e-12, atol=1e-12)
