"""Initialisers by name: one grammar for constructors and the command line.

A name, or a name with arguments: "orthogonal", "gaussian(1.5)", "critical(relu)",
"sparse(0.1, radius=0.9)", "chrono(1, 200)". Arguments are numbers, or names of activations; they
are those of the factory of the same name in `rnn_jax.initializers`.
"""

import ast
import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import jax

from rnn_jax.checks import check_choice
from rnn_jax.initializers import entries, gate_biases, matrices, skew
from rnn_jax.initializers.drawing import Initializer, InitializerLike

#: What is initialised, which decides the names that may stand for it: `"kernel"`, a matrix for each
#: gate, (rows, columns); `"bias"`, the biases of all gates side by side, (G·H,); `"unit"`, a few
#: numbers for each unit, (H,); `"skew"`, a skew-symmetric matrix, (H, H).
Kind = Literal["kernel", "bias", "unit", "skew"]
Factory = Callable[..., Initializer]


@dataclass(frozen=True)
class _Kind:
    """What an argument's weights are, and the initialisers for them by name."""

    what: str
    factories: dict[str, Factory]


def _scaled(scale: float, mode: entries.Mode, distribution: entries.Distribution) -> Factory:
    """A factory without arguments."""
    initializer = entries.variance_scaling(scale, mode, distribution)
    return lambda: initializer


_EVERYWHERE: dict[str, Factory] = {
    "zeros": lambda: jax.nn.initializers.zeros,
    "ones": lambda: jax.nn.initializers.ones,
    "constant": entries.constant,
    "uniform": entries.uniform,
    "normal": entries.normal,
}
_KINDS: dict[str, _Kind] = {
    "kernel": _Kind(
        "a matrix for each gate",
        {
            **_EVERYWHERE,
            "orthogonal": matrices.orthogonal,
            "identity": matrices.identity,
            "gaussian": entries.gaussian,
            "critical": entries.critical,
            "sparse": matrices.sparse,
            "henaff": matrices.henaff,
            "hippo": matrices.hippo,
            "ring": matrices.ring,
            "glorot_uniform": _scaled(1.0, "fan_avg", "uniform"),
            "glorot_normal": _scaled(1.0, "fan_avg", "truncated_normal"),
            "lecun_uniform": _scaled(1.0, "fan_in", "uniform"),
            "lecun_normal": _scaled(1.0, "fan_in", "truncated_normal"),
            "he_uniform": _scaled(2.0, "fan_in", "uniform"),
            "he_normal": _scaled(2.0, "fan_in", "truncated_normal"),
        },
    ),
    "bias": _Kind(
        "the biases of all gates",
        {**_EVERYWHERE, "forget_bias": gate_biases.forget_bias, "chrono": gate_biases.chrono},
    ),
    "unit": _Kind("a few numbers for each unit", _EVERYWHERE),
    "skew": _Kind(
        "a skew-symmetric matrix",
        {"henaff": skew.skew_henaff, "cayley": skew.skew_cayley},
    ),
}


def get_initializer(name: str, initializer: InitializerLike, kind: Kind = "kernel") -> Initializer:
    """The initialiser that a name stands for; a callable is returned as it is.

    Args:
      name: the argument's name, for the error message.
      initializer: a name, with arguments or without, or a callable (key, shape, dtype) -> array.
      kind: what is initialised; see `Kind`. Each kind has names of its own, which `names` lists.

    Returns:
      An initialiser (key, shape, dtype) -> array. Equal names give the same object.

    Raises:
      ValueError: the name is not known, is one for another kind, or its arguments are wrong.
      TypeError: the argument is neither a name nor callable.

    Example:
      >>> init = rj.initializers.get_initializer("kernel_init", "sparse(0.1, radius=0.9)")
      >>> init == rj.initializers.sparse(0.1, 0.9)
      True
    """
    if isinstance(initializer, str):
        return _named(name, initializer, kind)
    if callable(initializer):
        return initializer
    raise TypeError(
        f"{name} must be a name or a callable (key, shape, dtype) -> array; got {initializer!r}. "
        f"Known names: {', '.join(sorted(_KINDS[kind].factories))}."
    )


def sets_gates(bias_init: InitializerLike) -> bool:
    """Whether an initialiser of biases sets gates by itself, as `chrono` does.

    A cell asks before it adds a default of its own to the gate's bias.

    Args:
      bias_init: by name or callable.

    Returns:
      A bool.

    Raises:
      ValueError, TypeError: as `get_initializer`, for a bias.

    Example:
      >>> [rj.initializers.sets_gates(init) for init in ("zeros", "forget_bias(2)", "chrono(1, 9)")]
      [False, True, True]
    """
    return isinstance(get_initializer("bias_init", bias_init, "bias"), gate_biases.GateBias)


def names(kind: Kind) -> dict[str, str]:
    """The names of the initialisers for one kind of weights.

    Args:
      kind: "kernel", "bias", "unit" or "skew"; see `Kind`.

    Returns:
      {name: how it is written with all its arguments and their defaults}.

    Raises:
      KeyError: no such kind.

    Example:
      >>> rj.initializers.names("kernel")["sparse"]
      'sparse(density=0.1, radius=0.9)'
      >>> sorted(rj.initializers.names("skew"))
      ['cayley', 'henaff']
    """
    return {name: _usage(name, factory) for name, factory in _KINDS[kind].factories.items()}


# Equal texts give one object, so that nothing is computed twice.
@functools.lru_cache(maxsize=256)
def _named(argument: str, text: str, kind: Kind) -> Initializer:
    word, positional, named = _parsed(argument, text)
    here = _KINDS[kind]
    if word not in here.factories:
        others = [other.what for other in _KINDS.values() if word in other.factories]
        if others:
            known = ", ".join(map(repr, sorted(here.factories)))
            raise ValueError(
                f"{argument} must be an initialiser of {here.what}; got {text!r}, which is for "
                f"{others[0]}. Pass one of {known}."
            )
        check_choice(argument, word, here.factories)
    factory = here.factories[word]
    try:
        inspect.signature(factory).bind(*positional, **named)
    except TypeError as error:
        raise ValueError(
            f"{argument} must be written {_usage(word, factory)}; got {text!r}: {error}. Arguments "
            "with a value there may be left out."
        ) from None
    try:
        return factory(*positional, **named)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{argument}={text!r} names no initialiser: {error}") from error


def _parsed(argument: str, text: str) -> tuple[str, list[Any], dict[str, Any]]:
    """The name, the arguments by position and those by name."""
    why = ""
    try:
        tree = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError) as error:
        why = f": {getattr(error, 'msg', error)}"
    else:
        if isinstance(tree, ast.Name):
            return tree.id, [], {}
        if isinstance(tree, ast.Call) and isinstance(tree.func, ast.Name):
            given = [*tree.args, *(keyword.value for keyword in tree.keywords)]
            wrong = [ast.unparse(node) for node in given if not _is_value(node)]
            if not wrong and all(keyword.arg for keyword in tree.keywords):
                return (
                    tree.func.id,
                    [_value(node) for node in tree.args],
                    {str(keyword.arg): _value(keyword.value) for keyword in tree.keywords},
                )
            why = f": {wrong[0]} is neither a number nor a name" if wrong else ""
    raise ValueError(
        f"{argument} must be a name, or a name with numbers or names in parentheses; got "
        f"{text!r}{why}. Write for example 'orthogonal', 'gaussian(1.5)' or 'uniform(-0.1, 0.1)'."
    )


def _is_value(node: ast.expr) -> bool:
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.USub, ast.UAdd)):
        node = node.operand
        return isinstance(node, ast.Constant) and isinstance(node.value, (int, float))
    return isinstance(node, ast.Name) or (
        isinstance(node, ast.Constant) and isinstance(node.value, (int, float, str))
    )


def _value(node: ast.expr) -> Any:
    return node.id if isinstance(node, ast.Name) else ast.literal_eval(node)


def _usage(name: str, factory: Factory) -> str:
    """The name with its arguments, as in sparse(density=0.1, radius=0.9)."""
    written = []
    for parameter in inspect.signature(factory).parameters.values():
        default = parameter.default
        if default is parameter.empty:
            written.append(parameter.name)
        else:
            shown = default if isinstance(default, str) else f"{default:.4g}"
            written.append(f"{parameter.name}={shown}")
    return f"{name}({', '.join(written)})" if written else name
