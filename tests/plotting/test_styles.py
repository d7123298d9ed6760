"""One convention for pictures, and a style that can be switched off."""

import dataclasses
import functools
import gc
import inspect
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

CURVE = -np.arange(5.0)
LOCAL = rj.LocalLyapunovExponents(np.arange(6.0).reshape(3, 2), window=5)
SPECTRUM = types.SimpleNamespace(exponents=CURVE[:3], standard_errors=np.ones(3))
PARTS = types.SimpleNamespace(paths={}, slope_log=None, step_log_norms=CURVE)
FLOW = rj.GradientFlow(np.where(np.tri(4, dtype=bool), -1.0, -np.inf))
HISTORY = dataclasses.replace(
    make_history([0.3, 0.2, 0.1], probes={"gradient_flow": make_record()}),
    terms={"task": np.array([0.3, 0.2, 0.1]), "decay": np.array([0.2, 0.1, 0.1])},
)

# Every picture, of the least data that it takes.
ON_AXES = {
    "plot_attribution": PARTS,
    "plot_by_lag": CURVE,
    "plot_exponents": SPECTRUM,
    "plot_fixed_points": FOUR,
    "plot_flow_while_learning": make_record(),
    "plot_gates": {"reset": np.full((4, 2), 0.5)},
    "plot_learning": HISTORY,
    "plot_local_exponents": LOCAL,
    "plot_log_norms": -np.ones((4, 4)),
    "plot_singular_values": CURVE,
    "plot_terms": HISTORY,
    "plot_weight_shares": CURVE,
}
WHOLE = {"flow_figure": FLOW, "training_figure": HISTORY}
ALL = ON_AXES | WHOLE


def draws(name):
    """The call, of its data."""
    return functools.partial(getattr(rp, name), ALL[name])


def options(name):
    """What may be named in the call."""
    return set(inspect.signature(getattr(rp, name)).parameters)


@pytest.fixture(autouse=True)
def _as_before():
    with mpl.rc_context():
        yield
    plt.close("all")


def test_every_public_picture_is_in_the_tables():
    public = {n for n in rp.__all__ if inspect.isfunction(getattr(rp, n))} - {"style"}
    assert public == set(ALL)


@pytest.mark.parametrize("name", ON_AXES)
def test_it_draws_on_the_axes_that_it_is_given(name):
    call = draws(name)
    _, axes = plt.subplots(1, 2)
    assert call(ax=axes[1], title="above") is axes[1]
    assert axes[1].get_title(loc="left") == "above"
    assert axes[1].get_xlabel()
    assert axes[1].get_ylabel()
    assert plt.get_fignums() == [1]
    # The neighbour is as it was.
    assert not axes[0].has_data()
    with pytest.raises(ValueError, match="size of a new figure"):
        call(ax=axes[0], figsize=(3, 2))
    assert call().figure.number == 2
    if "labels" in options(name):
        with pytest.raises(ValueError, match="labels must have one name"):
            call(ax=axes[0], labels=list("abcdefghi"))
        assert call(ax=axes[0], labels=()).get_legend() is None


@pytest.mark.parametrize("name", WHOLE)
def test_a_page_is_a_figure_of_its_own(name):
    figure = draws(name)(title="above")
    assert isinstance(figure, mpl.figure.Figure)
    assert figure.get_suptitle() == "above"
    assert "ax" not in options(name)


@pytest.mark.parametrize("name", ALL)
def test_sizes_and_styles_leave_no_state_behind(name):
    call = draws(name)
    before = dict(mpl.rcParams)
    assert figure_of(call(figsize=(3, 2))).get_size_inches().tolist() == [3, 2]
    with pytest.raises(ValueError, match="figsize must be two positive numbers"):
        call(figsize=(3, 0))
    assert dict(mpl.rcParams) == before
    for style, width in (("column", rp.COLUMN), ("page", rp.PAGE)):
        with rp.style(style):
            styled = dict(mpl.rcParams)
            figure = figure_of(call())
            assert figure.get_figwidth() == width
            figure.draw_without_rendering()
            assert dict(mpl.rcParams) == styled
            # Nothing is cut at the edges of the page, not by a pixel.
            (left, bottom), (right, top) = figure.dpi * figure.get_tightbbox().get_points()
            assert min(left, bottom, figure.bbox.x1 - right, figure.bbox.y1 - top) > -1
    assert dict(mpl.rcParams) == before


@pytest.mark.parametrize("name", ALL)
def test_off_leaves_spines_and_size_to_the_user(name):
    mpl.rcParams["figure.figsize"] = (5, 4)
    mpl.rcParams["axes.prop_cycle"] = mpl.cycler(color=["#123456"])
    with rp.style(None):
        figure = figure_of(draws(name)())
    assert figure.get_figwidth() == 5
    if name in ON_AXES:
        assert figure.get_figheight() == 4
    drawn = [ax for ax in figure.axes if ax.get_xlabel()]
    assert drawn
    assert all(spine.get_visible() for ax in drawn for spine in ax.spines.values())
    assert "#0072B2" not in {line.get_color() for ax in drawn for line in ax.lines}


def test_a_style_stays_when_nobody_keeps_what_it_returns():
    undo = rp.style(None)
    try:
        rp.style("column")
        gc.collect()
        assert mpl.rcParams["figure.figsize"][0] == rp.COLUMN
        assert rp.plot_by_lag(CURVE).figure.get_figwidth() == rp.COLUMN
    finally:
        undo.close()


def test_an_unknown_style_is_refused():
    with pytest.raises(ValueError, match=r"style must be one of 'column', 'page' or None; got 'x'"):
        rp.style("x")


@pytest.mark.parametrize("name", ALL)
def test_what_a_backend_sets_with_the_first_figure_stays(name, monkeypatch):
    """That of notebooks turns interactive mode on then, without which no other figure shows."""

    def first(make):
        def made(*arguments, **options):
            mpl.interactive(True)
            return make(*arguments, **options)

        return made

    monkeypatch.setattr(plt, "figure", first(plt.figure))
    monkeypatch.setattr(plt, "subplots", first(plt.subplots))
    try:
        draws(name)()
        assert mpl.is_interactive()
    finally:
        mpl.interactive(False)


def figure_of(drawn):
    """The figure, or that of the axes."""
    return drawn if isinstance(drawn, mpl.figure.Figure) else drawn.figure
