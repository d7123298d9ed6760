"""One convention for pictures, and a style that can be switched off."""

import types

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pytest
from test_fixed_point_plane import FOUR
from test_training_pictures import make_history, make_record

import rnn_jax as rj
from rnn_jax import plotting as rp

LOCAL = rj.LocalLyapunovExponents(np.arange(6.0).reshape(3, 2), window=5)
SPECTRUM = types.SimpleNamespace(exponents=-np.arange(3.0), standard_errors=np.ones(3))
CALLS = {
    "plot_by_lag": lambda **o: rp.plot_by_lag(-np.arange(5.0), **o),
    "plot_exponents": lambda **o: rp.plot_exponents(SPECTRUM, **o),
    "plot_fixed_points": lambda **o: rp.plot_fixed_points(FOUR, **o),
    "plot_flow_while_learning": lambda **o: rp.plot_flow_while_learning(make_record(), **o),
    "plot_gates": lambda **o: rp.plot_gates({"reset": np.full((4, 2), 0.5)}, **o),
    "plot_learning": lambda **o: rp.plot_learning(make_history([0.3, 0.2, 0.1]), **o),
    "plot_local_exponents": lambda **o: rp.plot_local_exponents(LOCAL, **o),
    "plot_log_norms": lambda **o: rp.plot_log_norms(-np.ones((4, 4)), **o),
    "plot_singular_values": lambda **o: rp.plot_singular_values(-np.arange(4.0), **o),
    "plot_weight_shares": lambda **o: rp.plot_weight_shares(-np.arange(4.0), **o),
}


@pytest.fixture(autouse=True)
def _as_before():
    with mpl.rc_context():
        yield
    plt.close("all")


@pytest.mark.parametrize("name", CALLS)
def test_each_follows_the_convention(name):
    call = CALLS[name]
    before = dict(mpl.rcParams)
    _, ax = plt.subplots()
    assert call(ax=ax, title="above") is ax
    assert ax.get_title(loc="left") == "above"
    assert tuple(call(figsize=(3, 2)).figure.get_size_inches()) == (3, 2)
    with pytest.raises(ValueError, match="size of a new figure"):
        call(ax=ax, figsize=(3, 2))
    if name != "plot_log_norms":
        with pytest.raises(ValueError, match="labels must have one name"):
            call(labels=list("abcdefghi"))
        assert call(labels=()).get_legend() is None
    assert dict(mpl.rcParams) == before
    for style, width in (("column", rp.COLUMN), ("page", rp.PAGE)):
        with rp.style(style):
            figure = call().figure
            assert figure.get_figwidth() == width
            figure.canvas.draw()
    assert dict(mpl.rcParams) == before


@pytest.mark.parametrize("name", CALLS)
def test_off_leaves_spines_and_size_to_the_user(name):
    mpl.rcParams["figure.figsize"] = (5, 4)
    with rp.style(None):
        ax = CALLS[name]()
    assert tuple(ax.figure.get_size_inches()) == (5, 4)
    assert all(spine.get_visible() for spine in ax.spines.values())


def test_an_unknown_style_is_refused():
    with pytest.raises(ValueError, match=r"style must be one of 'column', 'page' or None; got 'x'"):
        rp.style("x")
