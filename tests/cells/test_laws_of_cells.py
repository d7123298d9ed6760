"""Every cell keeps every law, is trained, and comes back from the disk.

`check_cell` holds the laws; which of them apply to a cell is written down here, so that a claim
that gets lost is noticed. How weights start is in each family's file by their moments; here each
parameter is accounted for.
"""

import jax
import numpy as np
import optax
import pytest
from flax import nnx

import rnn_jax as rj
import zoo
from rnn_jax.testing.checking_cells import _laws

IN, H = 2, 4
EVERY = {**zoo.CELLS, **zoo.FAMILY}

# What each says of itself, beside how it splits its call.
GATED = ("gates", "memory path")
CLAIMS = {
    "simple_tanh": ("fused form", "slopes", "Jacobian bound"),
    "simple_identity": ("fused form", "slopes", "Jacobian bound", "linear form"),
    "lstm": ("fused form", "diagonal part", *GATED),
    "lstm_peephole": ("diagonal part", *GATED),
    "lstm_projection": GATED,
    "gru_reset_after": ("fused form", *GATED),
    "gru_reset_before": ("fused form", *GATED),
    "antisymmetric": ("fused form",),
    "antisymmetric_gated": ("fused form", "gates"),
    "cfc": ("gates",),
    "cfc_bare": ("fused form", "gates"),
    "clockwork": ("memory path",),
    "cornn": ("fused form",),
    "echo_state": ("fused form", "memory path"),
    "exprnn": ("fused form", "Jacobian bound"),
    "fast_grnn": ("fused form", *GATED),
    "indrnn": ("diagonal part", "Jacobian bound"),
    "layer_norm_gru": GATED,
    "layer_norm_lstm": GATED,
    "leaky": ("fused form", "memory path"),
    "leaky_learnt": ("fused form", "memory path"),
    "lem": ("fused form", *GATED),
    "lmu": (),
    "lru": ("linear form", "diagonal part"),
    "mgu": ("fused form", *GATED),
    "mgu_reset_after": ("fused form", *GATED),
    "min_gru": ("linear form", "diagonal part", *GATED),
    "min_lstm": ("linear form", "diagonal part", *GATED),
    "minimal_rnn": ("fused form", *GATED),
    "mlstm": ("gates",),
    "rg_lru": ("linear form", "diagonal part", *GATED),
    "s5": ("linear form", "diagonal part"),
    "s5_stable": ("linear form", "diagonal part"),
    "scornn": ("fused form", "Jacobian bound"),
    "slstm": ("fused form", "diagonal part", *GATED),
    "ugrnn": ("fused form", *GATED),
    "unicornn": ("diagonal part",),
    "unitary": ("fused form",),
}
# Of a second form of a class, what the form changes.
VARIANTS = {
    *("simple_identity", "lstm_peephole", "lstm_projection", "gru_reset_before"),
    *("antisymmetric_gated", "cfc_bare", "leaky_learnt", "mgu_reset_after", "s5_stable"),
}
LAWS = [law.name for law in _laws()]
ABOUT_CLAIMS = LAWS[LAWS.index("fused form") : LAWS.index("gates") + 1]
OF_VARIANTS = ["contract", *ABOUT_CLAIMS, "unroll equals steps", "Jacobian", "float32", "pickle"]

# How each parameter starts: at one number, at two by block, or drawn.
DRAWN = "kernel=drawn, recurrent_kernel=drawn, bias="
STARTS = {
    "simple_tanh": DRAWN + "0",
    "lstm": DRAWN + "0 1",
    "lstm_peephole": DRAWN + "0 1, peephole=0",
    "lstm_projection": DRAWN + "0 1, projection_kernel=drawn",
    "gru_reset_after": DRAWN + "0, candidate_recurrent_bias=0",
    "gru_reset_before": DRAWN + "0",
    "antisymmetric": DRAWN + "0",
    "cfc": DRAWN + "drawn, head_kernel=drawn, head_bias=drawn",
    "cfc_bare": DRAWN + "drawn",
    "clockwork": DRAWN + "0",
    "cornn": DRAWN + "drawn",
    "echo_state": "",
    "exprnn": DRAWN + "drawn",
    "fast_grnn": DRAWN + "1, gate_bias=1, zeta=1, nu=-4",
    "indrnn": "kernel=drawn, bias=0, recurrent_weights=drawn",
    "layer_norm_gru": DRAWN
    + "0, input_scale=1, input_shift=0, recurrent_scale=1, recurrent_shift=0",
    "layer_norm_lstm": DRAWN
    + "0 1, input_scale=1, input_shift=0, recurrent_scale=1, recurrent_shift=0, cell_scale=1, "
    "cell_shift=0",
    "leaky": DRAWN + "0",
    "leaky_learnt": DRAWN + "0, rate_logit=-0.693147",
    "lem": DRAWN + "drawn",
    "lmu": "kernel=drawn, recurrent_kernel=drawn, memory_encoder=0, memory_kernel=drawn",
    "lru": "nu=drawn, theta=drawn, gamma=drawn, kernel=drawn, output_kernel=drawn",
    "mgu": DRAWN + "0",
    "min_gru": "kernel=drawn",
    "min_lstm": "kernel=drawn",
    "minimal_rnn": DRAWN + "0, input_kernel=drawn",
    "mlstm": "kernel=drawn, bias=drawn",
    "rg_lru": "kernel=drawn, gate_kernel=drawn, gate_bias=0, decay=drawn",
    "s5": "rate=drawn, log_step=drawn, kernel=drawn, output_kernel=drawn",
    "scornn": DRAWN + "drawn",
    "slstm": "kernel=drawn, recurrent_kernel=0, bias=drawn",
    "ugrnn": DRAWN + "0 1",
    "unicornn": DRAWN + "0, time_scale=drawn",
    "unitary": DRAWN + "0",
}


def test_every_public_cell_is_swept():
    classes = {cls for cls in map(vars(rj.cells).get, rj.cells.__all__) if isinstance(cls, type)}
    abstract = {rj.RNNCell}
    wrappers = {rj.LearnedCarry, rj.RecurrentDropout, rj.Zoneout}
    public = {cls for cls in classes if issubclass(cls, nnx.Module)} - abstract - wrappers
    assert {type(EVERY[name](IN, H, 0)) for name in CLAIMS if name not in VARIANTS} == public
    assert set(zoo.FAMILY) <= set(CLAIMS)


@pytest.mark.parametrize("name", CLAIMS)
def test_a_cell_keeps_the_laws(name):
    only = OF_VARIANTS if name in VARIANTS else LAWS
    report = rj.testing.check_cell(EVERY[name](IN, H, 0), only=only)
    applies = {law for law in ABOUT_CLAIMS if report[law].status == "holds"}
    assert applies == set(CLAIMS[name])
    others = set(only) - set(ABOUT_CLAIMS)
    assert {law for law in others if report[law].status != "holds"} == set()


# What a wrapper says of the cell in it, or of the cells.
WRAPPED = {
    "zoneout": lambda: (rj.Zoneout(EVERY["lem"](IN, H, 0), 0.3), GATED),
    "learned_carry": lambda: (
        rj.LearnedCarry(EVERY["min_gru"](IN, H, 0), rngs=nnx.Rngs(0)),
        ("linear form", "diagonal part", *GATED),
    ),
    "dropout": lambda: (rj.RecurrentDropout(EVERY["ugrnn"](IN, H, 0), 0.3), GATED),
    "stack": lambda: (
        rj.StackedCell([EVERY["min_gru"](IN, H, 0), EVERY["fast_grnn"](H, H, 0)]),
        GATED,
    ),
}


@pytest.mark.parametrize("wrap", WRAPPED)
def test_what_wrappers_hand_on_is_true(wrap):
    cell, claims = WRAPPED[wrap]()
    report = rj.testing.check_cell(cell, only=["contract", *ABOUT_CLAIMS])
    assert {law for law in ABOUT_CLAIMS if report[law].status == "holds"} >= set(claims)


@pytest.mark.parametrize("name", STARTS)
def test_every_parameter_starts_as_its_paper_says(name, monkeypatch):
    monkeypatch.setattr(zoo, "randomised", lambda cell, seed: cell)
    found = zoo.weights_of(EVERY[name](IN, H, 0))
    starts = dict(one.split("=") for one in STARTS[name].split(", ") if one)
    assert set(found) == set(starts)
    for parameter, values in found.items():
        known = np.unique(values)
        if starts[parameter] == "drawn":
            assert known.size > 2, parameter
        else:
            expected = [float(number) for number in starts[parameter].split()]
            np.testing.assert_allclose(known, expected, atol=1e-6, err_msg=parameter)


class SideBySide(nnx.Module):
    """One model of several cells, which are trained by one program."""

    def __init__(self, names):
        self.models = nnx.Dict(
            {name: rj.SequenceModel(EVERY[name](IN, H, 0), 1, rngs=nnx.Rngs(1)) for name in names}
        )

    def __call__(self, xs):
        return sum(model(xs) for model in self.models.values())


CLASSES = [name for name in CLAIMS if name in zoo.FAMILY and name not in VARIANTS]
# Of each kind of weights one: fixed, parameters of other parameters, complex, of heads, of layers.
# That each weight of each cell has a gradient is in the files of families.
TRAINED = ["echo_state", "clockwork", "lru", "mlstm", "cfc", "unitary"]


def assert_the_same(found, expected):
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    jax.tree.map(np.testing.assert_array_equal, found, expected)


def test_cells_are_trained_and_come_back_from_the_disk(tmp_path):
    model, task = SideBySide(TRAINED), rj.tasks.Adding(5)
    options = {"steps": 10, "batch_size": 4, "seed": 0, "directory": tmp_path}
    result = rj.fit(model, task, optax.adam(1e-2), **options)
    assert np.isfinite(result.history.loss).all()
    before, after = (jax.tree.leaves_with_path(m.models) for m in (model, result.model))
    still = [
        jax.tree_util.keystr(path)
        for (path, old), (_, new) in zip(before, after, strict=True)
        if np.array_equal(old, new)
    ]
    # Kernel, recurrent kernel and bias of an echo state network are never trained.
    assert len(still) == 3, still
    assert all("echo_state" in path for path in still)
    assert_the_same(rj.restore(tmp_path, SideBySide(TRAINED)), result.model)


def test_every_cell_comes_back_from_a_file_of_weights(tmp_path):
    file = tmp_path / "weights.safetensors"
    moved = jax.tree.map(lambda leaf: np.asarray(leaf) + 1, SideBySide(CLASSES))
    rj.save(file, moved)
    assert_the_same(rj.load(file, SideBySide(CLASSES)), moved)
