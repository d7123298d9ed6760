"""Weights from PyTorch and back: outputs and all gradients equal, round trips bit for bit."""

import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import rnn_jax as rj
from refusing import refused, refuses

torch = pytest.importorskip("torch")

IN, H, T, B = 3, 4, 5, 2
XS = np.random.default_rng(0).normal(size=(B, T, IN))
CLOSE = {"rtol": 1e-11, "atol": 1e-12}

MAKERS = {
    "tanh": (torch.nn.RNN, {}),
    "relu": (torch.nn.RNN, {"nonlinearity": "relu"}),
    "lstm": (torch.nn.LSTM, {}),
    "projection": (torch.nn.LSTM, {"proj_size": 2}),
    "gru": (torch.nn.GRU, {}),
}
SHAPES = {
    "plain": {},
    "stacked": {"num_layers": 2},
    "both ways": {"num_layers": 2, "bidirectional": True},
    "no bias": {"bias": False},
}
# Every kind, and every shape; not every pair, because a program is compiled for each.
CASES = [
    ("tanh", "no bias"),
    ("relu", "stacked"),
    ("lstm", "both ways"),
    ("lstm", "no bias"),
    ("projection", "both ways"),
    ("gru", "both ways"),
    ("gru", "no bias"),
]


def module_of(name, shape="plain", **options):
    make, own = MAKERS[name]
    torch.manual_seed(1)
    options = {"batch_first": True, "dtype": torch.float64} | options
    return make(IN, H, **own, **SHAPES[shape], **options)


def entries(module):
    return {name: tensor.detach().numpy() for name, tensor in module.state_dict().items()}


@pytest.mark.parametrize(("name", "shape"), CASES)
def test_outputs_and_gradients_are_those_of_the_module(name, shape):
    module = module_of(name, shape)
    model = rj.convert.from_torch(module)
    assert isinstance(model, rj.SequenceModel)
    assert model.readout == "all"

    def loss(model, xs):
        ys = model(xs)
        return jnp.sum(jnp.sin(3 * ys)), ys

    run = jax.jit(jax.value_and_grad(loss, (0, 1), has_aux=True))
    (_, ys), (by_model, by_xs) = run(model, jnp.asarray(XS))
    t_xs = torch.tensor(XS, requires_grad=True)
    t_ys = module(t_xs)[0]
    torch.sin(3 * t_ys).sum().backward()
    np.testing.assert_allclose(ys, t_ys.detach().numpy(), **CLOSE)
    np.testing.assert_allclose(by_xs, t_xs.grad.numpy(), **CLOSE)
    ours = rj.convert.to_torch(by_model, module=False)
    for key, weight in module.named_parameters():
        expected = weight.grad.numpy()
        if key.startswith("bias_hh"):  # Ours is one bias; only a GRU's candidate has two.
            found = ours[key.replace("hh", "ih")]
            apart = slice(2 * H, None) if name == "gru" else slice(0, 0)
            found[apart] = ours[key][apart]
            np.testing.assert_allclose(found, expected, **CLOSE)
        else:
            np.testing.assert_allclose(ours[key], expected, **CLOSE)


@pytest.mark.parametrize(("name", "shape"), list(itertools.product(MAKERS, SHAPES)))
def test_round_trips_are_bit_for_bit(name, shape):
    module = module_of(name, shape)
    model = rj.convert.from_torch(module)
    there = rj.convert.to_torch(model)
    assert type(there) is type(module)
    assert there.batch_first
    again = rj.convert.from_torch(there)
    chex.assert_trees_all_equal(again, model)
    # PyTorch's two biases are added; all else comes back as it was.
    for key, array in entries(there).items():
        if "bias" not in key:
            np.testing.assert_array_equal(array, entries(module)[key])
    with torch.no_grad():
        xs = torch.tensor(XS)
        np.testing.assert_allclose(there(xs)[0].numpy(), module(xs)[0].numpy(), **CLOSE)
    state = rj.convert.to_torch(model, module=False)
    assert list(state) == list(module.state_dict())
    kind = {"tanh": "rnn", "relu": "rnn", "projection": "lstm"}.get(name, name)
    nonlinearity = name if kind == "rnn" else "tanh"
    from_state = rj.convert.from_torch(state, kind=kind, nonlinearity=nonlinearity)
    chex.assert_trees_all_equal(from_state, model)


@pytest.mark.parametrize(
    ("name", "theirs"),
    [
        ("relu", lambda: torch.nn.RNNCell(IN, H, nonlinearity="relu", dtype=torch.float64)),
        ("lstm", lambda: torch.nn.LSTMCell(IN, H, dtype=torch.float64)),
        ("gru", lambda: torch.nn.GRUCell(IN, H, bias=False, dtype=torch.float64)),
    ],
)
def test_a_cell_gives_a_cell(name, theirs):
    cell = theirs()
    ours = rj.convert.from_torch(cell)
    assert isinstance(ours, rj.RNNCell)
    carry = jax.tree.map(lambda a: a + 0.5, ours.initialize_carry((B, IN)))
    x = torch.tensor(XS[:, 0])
    half = torch.full((B, H), 0.5, dtype=torch.float64)
    with torch.no_grad():
        after = cell(x, (half, half) if name == "lstm" else half)
    after = after[::-1] if name == "lstm" else [after]  # PyTorch's (h, c) is (c, h) here.
    for one, other in zip(jax.tree.leaves(ours(carry, XS[:, 0])[0]), after, strict=True):
        np.testing.assert_allclose(one, other.numpy(), **CLOSE)
    there = rj.convert.to_torch(ours)
    assert type(there) is type(cell)
    chex.assert_trees_all_equal(rj.convert.from_torch(there), ours)
    chex.assert_trees_all_equal(
        rj.convert.from_torch(cell.state_dict(), nonlinearity=name if name == "relu" else "tanh"),
        ours,
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_the_type_stays_and_so_do_all_bits(dtype):
    module = module_of("gru", dtype=dtype)
    model = rj.convert.from_torch(module)
    kind = str(dtype).removeprefix("torch.")
    assert {leaf.dtype.name for leaf in jax.tree.leaves(model)} == {kind}
    there = rj.convert.to_torch(model)
    assert {p.dtype for p in there.parameters()} == {dtype}
    assert torch.equal(there.weight_hh_l0, module.weight_hh_l0)


def test_dropout_between_layers_goes_along_and_nothing_of_pytorch_s_random_numbers():
    module = module_of("lstm", "stacked", dropout=0.25)
    model = rj.convert.from_torch(module)
    assert model.dropout == 0.25
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    there = rj.convert.to_torch(model)
    assert torch.rand(1) == expected
    assert there.dropout == 0.25
    assert there.training
    from_state = rj.convert.from_torch(module.state_dict(), dropout=0.25)
    assert jax.tree.structure(from_state) == jax.tree.structure(model)


def test_time_first_is_called_batch_first():
    module = module_of("gru", batch_first=False)
    ys = rj.convert.from_torch(module)(XS)
    with torch.no_grad():
        theirs = module(torch.tensor(XS).transpose(0, 1))[0].transpose(0, 1)
    np.testing.assert_allclose(ys, theirs.numpy(), **CLOSE)


def test_last_states_are_those_of_the_module():
    module = module_of("projection", "stacked")
    carry, _ = rj.convert.from_torch(module)(XS, return_carry=True)
    with torch.no_grad():
        _, (h, c) = module(torch.tensor(XS))
    for depth, (our_c, our_h) in enumerate(carry):
        np.testing.assert_allclose(our_c, c[depth].numpy(), **CLOSE)
        np.testing.assert_allclose(our_h, h[depth].numpy(), **CLOSE)


def test_a_part_of_a_larger_state_dict_is_taken_by_its_prefix():
    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.lstm, self.head = module_of("lstm"), torch.nn.Linear(H, 1)

    net = Net()
    model = rj.convert.from_torch(net.state_dict(), prefix="lstm.")
    chex.assert_trees_all_equal(model, rj.convert.from_torch(net.lstm))
    says = refused(lambda: rj.convert.from_torch(net), TypeError, "got Net", r"module\.lstm")
    assert "recurrent part" in says
    refused(lambda: rj.convert.from_torch(net.state_dict()), ValueError, "prefix='lstm.'")


def test_a_function_of_jax_is_known_as_well_as_its_name():
    by_function = rj.SimpleRNNCell(IN, H, activation=jnp.tanh, rngs=nnx.Rngs(0))
    assert rj.convert.to_torch(by_function).nonlinearity == "tanh"


def test_arrays_are_copied_and_may_be_written_into_afterwards():
    arrays = {key: np.zeros_like(array) for key, array in entries(module_of("lstm")).items()}
    model = rj.convert.from_torch(arrays)
    for array in arrays.values():
        array[:] = 1
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(model))
    rj.convert.to_torch(model, module=False)["weight_hh_l0"][:] = 1
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(model))


def test_a_stack_a_layer_and_a_list_of_layers_are_modules_too():
    lower, upper = (rj.GRUCell(n, H, rngs=nnx.Rngs(n)) for n in (IN, H))
    stack = rj.convert.to_torch(rj.StackedCell([lower, upper]))
    assert (stack.num_layers, stack.bidirectional) == (2, False)
    with torch.no_grad():
        ys = stack(torch.tensor(XS))[0]
    model = rj.SequenceModel([lower, upper], readout="all")
    np.testing.assert_allclose(ys.numpy(), model(XS), **CLOSE)
    one = rj.convert.to_torch([lower], module=False)
    assert list(one) == [f"{part}_l0" for part in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")]
    with_readout = rj.SequenceModel([lower], 2, rngs=nnx.Rngs(0))
    chex.assert_trees_all_equal(rj.convert.to_torch(with_readout.cells, module=False), one)


# ---- What is refused.


def state(name="lstm", shape="plain", **changes):
    """A state dict as arrays, with entries changed, added or (by None) left out."""
    whole = entries(module_of(name, shape)) | changes
    return {key: array for key, array in whole.items() if array is not None}


class OwnForward(torch.nn.LSTM):
    def forward(self, xs):
        return super().forward(xs)[0]


BAD_INPUT = {
    "no torch": (lambda: 3, {}, TypeError, "source must be a torch.nn.RNN", "int", "Pass one"),
    "other module": (lambda: torch.nn.Linear(2, 2), {}, TypeError, "source must", "Linear"),
    "own forward": (lambda: OwnForward(2, 2), {}, TypeError, "OwnForward", "state_dict()"),
    "kind of a module": (
        lambda: module_of("gru"),
        {"kind": "gru"},
        ValueError,
        "kind must be left out",
        "state_dict()",
    ),
    "empty": (dict, {}, ValueError, "weight_ih_l0", "0 entries", "prefix"),
    "unknown": (
        lambda: state(extra=np.ones(2)),
        {},
        ValueError,
        "must hold weight_ih_l0",
        "extra unknown",
        "one recurrent module",
    ),
    "missing": (lambda: state(bias_hh_l0=None), {}, ValueError, "bias_hh_l0 missing"),
    "a layer left out": (
        lambda: {k.replace("l1", "l2"): v for k, v in state("gru", "stacked").items()},
        {},
        ValueError,
        "weight_ih_l1",
        "missing",
    ),
    "one direction alone": (
        lambda: state("gru", "both ways", weight_ih_l1_reverse=None),
        {},
        ValueError,
        "weight_ih_l1_reverse missing",
    ),
    "of another kind": (
        lambda: state("gru"),
        {"kind": "lstm"},
        ValueError,
        "kind 'lstm'",
        "4 H rows",
        "(12, 4)",
        "kind='gru'",
    ),
    "no such kind": (lambda: state(), {"kind": "LSTM"}, ValueError, "kind must be", "'LSTM'"),
    "of no kind": (
        lambda: state(weight_hh_l0=np.ones((7, 4))),
        {},
        ValueError,
        "weight_hh_l0 must have H rows",
        "(7, 4)",
    ),
    "of another size": (
        lambda: state("lstm", "stacked", weight_ih_l1=np.ones((16, 5))),
        {},
        ValueError,
        "weight_ih_l1 must have shape (16, 4)",
        "(16, 5)",
        "same network",
    ),
    "bias of another size": (
        lambda: state(bias_ih_l0=np.ones(15)),
        {},
        ValueError,
        "bias_ih_l0 must have shape (16,)",
        "(15,)",
    ),
    "no matrix": (
        lambda: state(weight_hh_l0=np.ones(16)),
        {},
        ValueError,
        "weight_hh_l0 must be a matrix",
        "(16,)",
    ),
    "a projection of a GRU": (
        lambda: state("gru", weight_hr_l0=np.ones((4, 4))),
        {},
        ValueError,
        "only an LSTM has a projection",
    ),
    "whole numbers": (
        lambda: state(bias_ih_l0=np.ones(16, int)),
        {},
        TypeError,
        "real floating-point",
        "bias_ih_l0 of type int64",
    ),
    "strings": (lambda: state(bias_ih_l0="x"), {}, TypeError, "floating-point", "bias_ih_l0"),
    "a prefix of no use": (
        lambda: state(),
        {"prefix": "lstm."},
        ValueError,
        "prefix 'lstm.'",
        "prefix=''",
    ),
    "dropout": (lambda: state(), {"dropout": 1.0}, ValueError, "dropout must lie in [0, 1)"),
    "no such nonlinearity": (
        lambda: state(),
        {"nonlinearity": "sigmoid"},
        ValueError,
        "nonlinearity must be one of",
        "'sigmoid'",
    ),
}


@pytest.mark.parametrize("name", BAD_INPUT)
def test_what_does_not_fit_is_refused(name):
    make, options, error, *words = BAD_INPUT[name]
    says = refused(lambda: rj.convert.from_torch(make(), **options), error)
    for word in words:
        assert word in says


def test_float64_is_refused_where_jax_computes_in_less():
    module = module_of("gru")
    with jax.enable_x64(False):
        refused(lambda: rj.convert.from_torch(module), ValueError, "float64", "jax_enable_x64")


def cell(size=H, make=rj.LSTMCell, **options):
    return make(IN, size, rngs=nnx.Rngs(0), **options)


class OwnStep(rj.LSTMCell):
    def step(self, carry, z):
        return super().step(carry, 2 * z)


def model(**options):
    return rj.SequenceModel([cell(IN), cell(IN)], rngs=nnx.Rngs(0), readout="all", **options)


CANNOT_GO = {
    "readout": (
        lambda: model(out_features=1),
        ValueError,
        "recurrent layers alone",
        "a dense readout",
        "model.cells",
    ),
    "embedding": (
        lambda: rj.SequenceModel([cell()], embedding=5, readout="all", rngs=nnx.Rngs(0)),
        ValueError,
        "an embedding",
        "model.cells",
    ),
    "last step": (lambda: rj.SequenceModel(cell()), ValueError, "readout='all'", "model.cells"),
    "residual": (lambda: model(residual=True), ValueError, "residual=True", "model.cells"),
    "layer norm": (lambda: model(layer_norm=True), ValueError, "layer_norm=True"),
    "peephole": (lambda: cell(peephole=True), ValueError, "peephole=True", "peephole=False"),
    "coupled": (lambda: cell(coupled=True), ValueError, "coupled=True", "rnn_jax.save"),
    "1997": (lambda: cell(forget_gate=False), ValueError, "forget_gate=False"),
    "truncated": (lambda: cell(truncated=True), ValueError, "truncated=True", "truncated=False"),
    "reset before": (
        lambda: cell(make=rj.GRUCell, reset_after=False),
        ValueError,
        "reset_after=True",
        "to_keras",
    ),
    "gates": (lambda: cell(gate_fn="relu"), ValueError, "gate_fn='sigmoid'", "'relu'"),
    "candidate": (
        lambda: cell(make=rj.GRUCell, activation_fn=jax.nn.softmax),
        ValueError,
        "activation_fn='tanh'",
        "'softmax'",
    ),
    "activation": (
        lambda: cell(make=rj.SimpleRNNCell, activation="elu"),
        ValueError,
        "tanh or relu",
        "elu",
    ),
    "own step": (lambda: cell(make=OwnStep), TypeError, "must run the step", "OwnStep"),
    "wrapped": (lambda: [rj.Zoneout(cell(), 0.1)], TypeError, "Zoneout", ".cell"),
    "no cell": (lambda: 3, TypeError, "LSTMCell or GRUCell", "int"),
    "no layer": (list, ValueError, "must have a layer", "none"),
    "sizes": (lambda: [cell(H), cell(H + 1)], ValueError, "same hidden_features", "4, 5"),
    "kinds": (lambda: [cell(), cell(make=rj.GRUCell)], ValueError, "same kind", "lstm, gru"),
    "projected cell": (lambda: cell(projection=2), ValueError, "projection=2", "[cell]"),
    "projected to more": (lambda: [cell(projection=4)], ValueError, "must be smaller"),
    "ensemble": (
        lambda: rj.ensemble(lambda key: rj.GRUCell(2, 2, rngs=nnx.Rngs(key)), [0, 1]),
        ValueError,
        "ensemble",
        "rnn_jax.member",
    ),
}


@pytest.mark.parametrize("name", CANNOT_GO)
def test_what_pytorch_does_not_have_is_refused(name):
    make, error, *words = CANNOT_GO[name]
    says = refused(lambda: rj.convert.to_torch(make()), error)
    for word in words:
        assert word in says


def test_biases_other_than_zero_are_not_left_out():
    words = ("bias=False leaves the biases out", "got others", "Leave bias=False out")
    refuses(lambda: rj.convert.to_torch(cell(), bias=False), ValueError, *words)
    assert not rj.convert.to_torch(cell(forget_bias=0.0), bias=False).bias


@pytest.mark.parametrize("kind", ["rnn", "lstm", "gru"])
def test_a_cell_without_biases_has_none_there_unless_they_are_asked_for(kind):
    make = {"rnn": rj.SimpleRNNCell, "lstm": rj.LSTMCell, "gru": rj.GRUCell}[kind]
    bare, full = (make(IN, H, use_bias=bias, rngs=nnx.Rngs(0)) for bias in (False, True))
    there = rj.convert.to_torch(bare)
    assert there.bias is False
    chex.assert_trees_all_equal(rj.convert.from_torch(there), bare)
    state = rj.convert.to_torch(bare, module=False, bias=True)
    assert not np.any(state["bias_ih"])
    assert not np.any(state["bias_hh"])
    # In one module all layers have biases, or none.
    upper = make(H, H, rngs=nnx.Rngs(1))
    mixed = rj.convert.to_torch([bare, upper])
    assert mixed.bias is True
    assert not np.any(mixed.bias_ih_l0.detach().numpy())
    for to in (rj.convert.to_flax, rj.convert.to_keras):
        options = {} if to is rj.convert.to_flax else {"layer": False, "bias": True}
        zeroed = jax.tree.leaves(to(bare, **options))
        full.bias[...] = 0 * full.bias[...]
        chex.assert_trees_all_equal(zeroed, jax.tree.leaves(to(full, **options)))
