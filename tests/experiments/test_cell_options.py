"""Cells on the command line: all of them, with the arguments of their constructors."""

import dataclasses
from collections.abc import Callable

import jax
import pytest
from flax import nnx

import rnn_jax as rj
from learning.cell_options import cells, checked, options_of
from refusing import refuses


def shapes_of(build):
    return [
        (jax.tree_util.keystr(path), leaf.shape, leaf.dtype)
        for path, leaf in jax.tree_util.tree_leaves_with_path(nnx.eval_shape(build))
    ]


def test_every_public_cell_has_a_name():
    named = {kind.__name__ for kind in cells().values()}
    public = {name for name in rj.cells.__all__ if name.endswith("Cell")}
    assert named == public - {"Cell", "RNNCell"}
    assert {"simple", "lstm", "gru", "mingru", "cornn", "s5"} <= set(cells())


@pytest.mark.parametrize("name", cells())
def test_options_left_out_build_the_default_cell_and_each_has_words(name):
    kind = cells()[name]
    options = options_of(kind)
    assert shapes_of(lambda: options().build(2, 4, nnx.Rngs(0))) == shapes_of(
        lambda: kind(2, 4, rngs=nnx.Rngs(0))
    )
    hints = {field.name: field.type.__metadata__[0] for field in dataclasses.fields(options)}
    assert hints
    assert all(hint.help for hint in hints.values()), hints
    assert options_of(kind) is options


def test_what_is_chosen_reaches_the_constructor():
    chosen = options_of(rj.LSTMCell)(coupled=True, projection=2, gate_fn="hard_tanh")
    cell = chosen.build(3, 4, nnx.Rngs(0))
    assert (cell.blocks, cell.output_features) == (("forget", "candidate", "output"), 2)
    assert cell.gate_fn.name == "hard_tanh"


def test_an_argument_that_cannot_be_typed_is_no_silent_gap():
    class OddCell(rj.SimpleRNNCell):
        """Odd."""

        def __init__(self, in_features: int, hidden_features: int, *, odd: Callable, rngs):
            super().__init__(in_features, hidden_features, rngs=rngs)

    OddCell.__init__.__annotations__["rngs"] = nnx.Rngs
    refuses(lambda: options_of(OddCell), TypeError, "got odd", "OddCell")


def test_a_refusal_speaks_of_the_option():
    options = options_of(rj.IndRNNCell)(length=0, recurrent_init="ones")
    refuses(
        lambda: checked(options, lambda: options.build(2, 3, nnx.Rngs(0))),
        ValueError,
        "--cell.length must be at least 1; got 0. Pass",
    )
