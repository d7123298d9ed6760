"""Every public name has a page and a docstring with an example, and every example runs."""

import doctest
import inspect

import prelude
import pytest
from public_names import grouped, public, resolve

FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
# Types that are spelled with other types have no docstring of their own.
ALIASES = {
    "initializers.Initializer",
    "initializers.InitializerLike",
    "initializers.Kind",
    "initializers.MemoryGates",
}


def test_the_reference_has_each_public_name_once():
    names = grouped()
    assert sorted(names) == sorted(set(names))
    assert set(names) == public()


@pytest.mark.parametrize("name", [name for name in grouped() if name not in ALIASES])
@pytest.mark.filterwarnings("default")
def test_its_example_runs(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    thing = resolve(name)
    documentation = inspect.getdoc(thing) or ""
    assert documentation, f"rnn_jax.{name} has no docstring"
    scope = {key: getattr(prelude, key) for key in prelude.__all__}
    parsed = doctest.DocTestParser().get_doctest(documentation, scope, name, None, None)
    assert parsed.examples, f"the docstring of rnn_jax.{name} has no example (>>> …)"
    said = []
    doctest.DocTestRunner(optionflags=FLAGS).run(parsed, out=said.append)
    assert not said, "".join(said)


def public_methods():
    """(name, method) of every method and property that the classes here define and show."""
    for name in grouped():
        thing = resolve(name)
        if inspect.isclass(thing):
            for method, value in vars(thing).items():
                shown = inspect.isroutine(value) or isinstance(value, property)
                if shown and not method.startswith("_"):
                    yield f"{name}.{method}", getattr(value, "__func__", value)


@pytest.mark.parametrize(("name", "method"), list(public_methods()))
def test_its_methods_have_docstrings(name, method):
    assert inspect.getdoc(method), f"rnn_jax.{name} has no docstring"
