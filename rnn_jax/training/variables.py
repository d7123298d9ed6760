"""What of a model is trained, and what is state: carried through training, frozen in evaluation."""

import functools
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from rnn_jax.checks import is_key, kind_of
from rnn_jax.training.disk.checkpoints import named_leaves


def trained_leaves(model: Any) -> list[bool]:
    """Which leaves of a model are trained, in the order of `jax.tree.leaves`.

    Of an NNX module the variables of type `nnx.Param`, and nothing else: batch statistics, random
    keys and counters, caches, variables of one's own types and plain arrays are state. Of any other
    pytree (a `Partial`, a dict, an Equinox module) every leaf.
    """
    return list(_trained(model, inside_module=False))


def split(model: Any, trained: Sequence[bool] | None = None) -> tuple[Any, Any]:
    """(parameters, state): twice the structure of the model, None where the other one has leaves.

    A model without state is its own parameters.

    Args:
      model: to be trained.
      trained: which leaves are, where not all of `trained_leaves`; the others go with the state.
    """
    trained = trained_leaves(model) if trained is None else trained
    leaves, structure = jax.tree.flatten(model)
    pairs = list(zip(leaves, trained, strict=True))
    parameters = [leaf if is_trained else None for leaf, is_trained in pairs]
    state = [None if is_trained else leaf for leaf, is_trained in pairs]
    return jax.tree.unflatten(structure, parameters), jax.tree.unflatten(structure, state)


def merge(parameters: Any, state: Any) -> Any:
    """A new model from the two parts that `split` gives."""
    return jax.tree.map(
        lambda parameter, variable: variable if parameter is None else parameter,
        parameters,
        state,
        is_leaf=lambda leaf: leaf is None,
    )


def state_after(called: Any, before: Any, trained: Sequence[bool] | None = None) -> Any:
    """The state of a model that was called, in the form that it had before; see `split`.

    A parameter that is not trained is what it was, whatever the call has written into it.

    Raises:
      TypeError: the call added or removed variables, or changed the shape or type of one.
    """
    was, now = named_leaves(before), dict(named_leaves(called))
    for name in _sown(called) - dict(was).keys():
        del now[name]
    parameters = trained_leaves(before)
    trained = parameters if trained is None else trained
    changed = [name for name in dict(was) if name not in now]
    changed += [name for name in now if name not in dict(was)]
    if changed:
        how = "added" if changed[0] in now else "removed"
        raise TypeError(
            "a model must keep its variables when it is called, because a compiled loop carries "
            f"them from step to step; got {changed[0]} {how}. Make all "
            "variables when the model is made."
        )
    state = [
        None if is_trained else old if is_parameter else _kept(name, old, now[name])
        for (name, old), is_parameter, is_trained in zip(was, parameters, trained, strict=True)
    ]
    return jax.tree.unflatten(jax.tree.structure(before), state)


def state_stays_finite(before: Any, after: Any) -> jax.Array:
    """Whether no number of a model's state has become NaN or infinite that was not before, ()."""
    pairs = zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True)
    return functools.reduce(
        jnp.logical_and,
        [
            jnp.all(jnp.isfinite(new) | ~jnp.isfinite(old))
            for old, new in pairs
            if jnp.issubdtype(new.dtype, jnp.inexact)
        ],
        jnp.bool_(True),
    )


def in_evaluation(model: Any) -> Any:
    """A copy for evaluation: its NNX modules as after `.eval()`; what it writes is lost with it."""
    copied = jax.tree.map(lambda leaf: leaf, model)
    for module in _outermost_modules(copied):
        module.eval()
    return copied


def named_variables(model: Any) -> list[tuple[tuple[Any, ...], Any, int]]:
    """(path, variable, its leaves) of every variable, and of every other leaf by itself.

    The paths are those of `nnx.state`, as in ("cells", 0, "kernel").
    """
    found = jax.tree_util.tree_leaves_with_path(model, is_leaf=_is_variable)
    return [(tuple(map(_key, path)), node, len(jax.tree.leaves(node))) for path, node in found]


def check_model(model: Any, trained: Sequence[bool] | None = None) -> Any:
    """Returns a model that can be trained.

    Args:
      model: whatever was passed for it.
      trained: which leaves are trained, where not all of `trained_leaves`.

    Raises:
      TypeError: it cannot be called, has leaves that are no arrays, or nothing to train.
      ValueError: it has one variable in two places.
    """
    if isinstance(model, type) or not callable(model):
        raise TypeError(
            f"model must be callable, model(inputs) -> outputs; got {kind_of(model)}. Pass for "
            "example a SequenceModel."
        )
    leaves = named_leaves(model)
    trained = trained_leaves(model) if trained is None else trained
    for (name, leaf), is_trained in zip(leaves, trained, strict=True):
        if not _is_array(leaf) or (is_trained and not jnp.issubdtype(leaf.dtype, jnp.inexact)):
            raise TypeError(
                "every leaf of a model must be an array of floats, because all are trained but "
                "variables of NNX modules that are no nnx.Param; got "
                f"{leaf.dtype if _is_array(leaf) else kind_of(leaf)} at {name or 'the top'}. Close "
                "over what is not trained, as in jax.tree_util.Partial(function, parameters), make "
                "it an nnx.Variable of a module, or leave an array out of trainable=."
            )
    if not any(trained):
        raise TypeError(
            f"a model must have arrays to train; {kind_of(model)} has none. Pass parameters as "
            "pytree leaves, as in jax.tree_util.Partial(function, parameters), and as nnx.Param in "
            "an NNX module."
        )
    check_unshared(model)
    return model


def check_unshared(model: Any) -> None:
    """Raises ValueError if one variable stands in two places of a model.

    As leaves of a pytree they would become two, and go apart.
    """
    seen: dict[int, str] = {}
    for path, node in jax.tree_util.tree_leaves_with_path(model, is_leaf=_is_variable):
        if not _is_variable(node):
            continue
        name = jax.tree_util.keystr(path, simple=True, separator=".")
        if id(node) in seen:
            raise ValueError(
                "each variable of a model must stand in one place, because as a pytree it would "
                f"become two that go apart; got one {type(node).__name__} at {seen[id(node)]} and "
                f"at {name}. Keep one of them and hand it on when the model is called, or give "
                "each place its own, such as rngs.fork()."
            )
        seen[id(node)] = name


def _sown(model: Any) -> set[str]:
    """What a call leaves behind for whoever looks, as `nnx.Module.sow` does, and nothing reads."""
    nodes = jax.tree.map(
        lambda node: jax.tree.map(lambda _: isinstance(node, nnx.Intermediate), node),
        model,
        is_leaf=_is_variable,
    )
    return {name for name, is_sown in named_leaves(nodes) if is_sown}


def _trained(node: Any, *, inside_module: bool) -> Iterator[bool]:
    if _is_variable(node):
        yield from [isinstance(node, nnx.Param)] * len(jax.tree.leaves(node))
        return
    children = _children(node)
    if len(children) == 1 and children[0] is node:
        yield not inside_module
        return
    # Containers belong to whatever holds them; one that can be called is a cell or a model.
    if callable(node) or not isinstance(node, (list, tuple, dict)):
        inside_module = isinstance(node, nnx.Module)
    for child in children:
        yield from _trained(child, inside_module=inside_module)


def _outermost_modules(node: Any) -> Iterator[nnx.Module]:
    """The modules of a pytree that are not part of another one that reaches them by itself."""
    reached: set[int] = set()

    def visit(node: Any) -> Iterator[nnx.Module]:
        if isinstance(node, nnx.Module) and id(node) not in reached:
            reached.update(id(inner) for _, inner in nnx.iter_modules(node))
            yield node
        children = _children(node)
        if not (len(children) == 1 and children[0] is node):
            for child in children:
                yield from visit(child)

    return visit(node)


def _children(node: Any) -> list[Any]:
    return jax.tree.leaves(node, is_leaf=lambda inner: inner is not node)


def _is_array(leaf: Any) -> bool:
    return hasattr(leaf, "dtype") and hasattr(leaf, "shape")


def _is_variable(node: Any) -> bool:
    return isinstance(node, nnx.Variable)


def _key(entry: Any) -> Any:
    """What an entry of a path holds: a name, a key of a dict, or an index."""
    for name in ("name", "key", "idx"):
        if hasattr(entry, name):
            return getattr(entry, name)
    return str(entry)


def _kept(name: str, old: Any, new: Any) -> jax.Array:
    """What was written into a variable, in the type that the variable has."""
    same_kind = _is_array(new) and any(
        jnp.issubdtype(old.dtype, kind) and jnp.issubdtype(new.dtype, kind)
        for kind in (jnp.floating, jnp.complexfloating, jnp.integer, jnp.bool_, old.dtype)
    )
    if not same_kind or new.shape != old.shape:
        raise TypeError(
            "a model must keep the shapes and types of its state when it is called, because a "
            f"compiled loop carries it from step to step; got {_form(new)} for {name}, which was "
            f"{_form(old)}. Cast what is written into it."
        )
    return new if is_key(new) else jnp.asarray(new, old.dtype)


def _form(leaf: Any) -> str:
    if not _is_array(leaf):
        return kind_of(leaf)
    return f"{leaf.dtype}{list(leaf.shape)}"
