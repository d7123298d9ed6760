"""What becomes of docstrings on their way to Sphinx, and of the pages made for names."""

import pytest
from docstrings import convert, own_names
from public_names import grouped

import rnn_jax as rj
from reference import class_directive, index_page, inherits, page_of

CASES = {
    "a bar": ("Whether all |λ| < 1.", r"Whether all \|λ\| < 1."),
    "stars": ("Takes *args and **options.", r"Takes \*args and \*\*options."),
    "an underscore at the end": (
        "Sets _x_ and W_h, then rates_.",
        r"Sets _x\_ and W_h, then rates\_.",
    ),
    "code": ("Calls `a_ * |b|` twice.", "Calls ``a_ * |b|`` twice."),
    "code and a plural": ("Two `int`s.", r"Two ``int``\ s."),
    "a link": ("See `rj.unroll`.", "See :py:obj:`rj.unroll <rnn_jax.unroll>`."),
    "a link into a module": (
        "See `tasks.Adding`.",
        "See :py:obj:`tasks.Adding <rnn_jax.tasks.Adding>`.",
    ),
    "no link": ("See `carry`.", "See ``carry``."),
}
EQUATIONS = {
    "one line": "h' = tanh(x W_x + h W_h + b)",
    "no relation": "k · ln(sup|φ'| · σ₁(W_h))",
    "with words": "mean over cells of 1/k Σ_i (λ_i − target_i)²",
    "words after it": "carry_t, y_t = cell(carry_{t−1}, x_t)    for t = 1 … T",
    "several lines": "i = σ(x W_i + h U_i)\nc' = f ∘ c + i ∘ g",
    "goes on": "J = A_T ⋯ A_1,    with A_t = ∂carry_t/∂carry_{t−1}, taken\n    along it",
}
PROSE = {
    "a sentence": "The value is exact: x = y holds to rounding.",
    "in parentheses": "Memory: the states. (H = 2048: 82 MB.)",
    "leads to what follows": "With all options, layer l makes of its input h (h⁰ = x):",
    "breaks off": "Hand parameters over, as in",
}


@pytest.mark.parametrize(("line", "expected"), CASES.values(), ids=CASES)
def test_a_line_of_prose(line, expected):
    assert convert([line]) == [expected, ""]


@pytest.mark.parametrize("text", EQUATIONS.values(), ids=EQUATIONS)
def test_equations_stand_apart(text):
    found = convert(["A summary.", "", *text.splitlines(), "", "Args:", "  x: y."])
    assert found[2:4] == [".. code-block:: none", "   :class: equation"]
    assert "".join(found[5:-3]).replace(" ", "") == text.replace("\n", "").replace(" ", "")


@pytest.mark.parametrize("text", PROSE.values(), ids=PROSE)
def test_prose_flows(text):
    assert not any("equation" in line for line in convert(["A summary.", "", text]))


def test_a_summary_is_no_equation():
    assert convert(["J = ∂y/∂x, applied to vectors"]) == ["J = ∂y/∂x, applied to vectors", ""]


def test_equations_with_gaps_between_them_are_set_one_by_one_where_they_are_long():
    left, right = "A_t Q_{t−1} = Q_t R_t,", "λ_i = ⟨ln |R_ii|⟩ over the steps after the warm-up"
    assert convert(["A summary.", "", f"{left}    {right}"])[5:7] == ["   " + left, "   " + right]


def test_indented_paragraphs_are_code():
    found = convert(["A summary:", "", "  for x in xs:", "      step(x)", "", "On it goes."])
    assert found == [
        "A summary:",
        "",
        "::",
        "",
        "  for x in xs:",
        "      step(x)",
        "",
        "On it goes.",
        "",
    ]


def test_sections_end_where_text_is_not_indented():
    text = ["A summary.", "", "Attributes:", "  x: a", "    number_.", "", "y = 2 · x"]
    found = convert(text)
    assert found[2:5] == ["Attributes:", "  x: a", r"    number\_."]
    assert found[6] == ".. code-block:: none"


def test_examples_stay_as_they_are():
    text = ["A summary.", "", "Example:", "  >>> a_ = *b, `c`", "  |x|"]
    assert convert(text)[2:5] == text[2:]


def test_each_source_is_an_item():
    text = [
        "References:",
        '  J. L. Ba, J. R. Kiros and G. E. Hinton, "Layer',
        '  normalization", 2016 (the norm); I. Sutskever et al., 2013.',
    ]
    ba = r'  * \J. L. Ba, J. R. Kiros and G. E. Hinton, "Layer normalization", 2016 (the norm)'
    assert convert(text) == ["References:", ba, r"  * \I. Sutskever et al., 2013.", ""]


def test_a_nearer_meaning_is_not_linked():
    save = own_names("method", "rnn_jax.FixedPoints.save", rj.FixedPoints.save)
    assert {"load", "path", "FixedPoints", "rnn_jax.FixedPoints.save"} <= save
    assert "member" in own_names("function", "rnn_jax.member", rj.member)
    assert "unroll" not in save
    assert convert(["What `load` reads."], save)[0] == "What ``load`` reads."


def test_members_that_others_wrote_are_left_out():
    directive = class_directive("GradientFlow", rj.GradientFlow)
    assert ":exclude-members: replace" in directive
    assert ":special-members: __call__" in class_directive("SequenceModel", rj.SequenceModel)


def test_a_class_says_whose_methods_it_has():
    assert "[`RNNCell`](RNNCell.md)" in inherits(rj.GRUCell)
    assert not inherits(rj.RNNCell)


def test_names_that_differ_by_capitals_have_pages_that_do_not():
    assert page_of("attribution") == "attribution"
    assert page_of("Attribution") == "Attribution-class"


def test_the_index_has_every_name():
    index = index_page()
    assert not [name for name in grouped() if f"](api/{page_of(name)}.md)" not in index]
