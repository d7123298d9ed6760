"""What a cell tells of itself, and when it counts.

A cell may tell more of itself than its step shows: a form that runs faster (`fused_form`), its
gates, the slopes of its activation, a path along which its carry is handed on, a bound. Such a
claim makes calls faster or richer, never different, so it counts only for the very mathematics that
the cell runs. Everything that asks a cell for a claim asks `claim`, whose rule is:

a claim that class C makes holds for an object unless a class before C in its method resolution
order (a subclass, or a mixin in front), one that has come between C and a base of C (a sibling that
a subclass of both brings along), or the object itself, has another version of any attribute that C
or a base of C defines, for whatever a step does it does with those.

What is known to have no part in a step (how an object is built, printed or copied; the initial
carry) may differ, and whoever changes the mathematics may make a claim anew. Attributes that are
data, such as weights, are read by step and claim alike. A cell that is none of this package's is
held to the same rule, and believed about its own step.

A method that is set on one object and bound to it keeps that object's weights, which `jax.jit` and
`jax.grad` take for constants, as they do with whatever a function closes over. To train a cell with
another step, write a subclass.
"""

import functools
import inspect
from collections.abc import Iterable, Mapping
from typing import Any

from jax.tree_util import Partial

# What a cell of this package may tell of itself, each in the class that can say so:
#   fused_form() -> FusedForm | None
#   gates(carry, x) -> {name: (..., H)}            memory_path(carry, x) -> {part: (..., H)}
#   slopes(carry, x) -> (..., H), with recurrent_kernel: A = diag(slopes) W_hᵀ
#   jacobian_bound() -> (sup|φ'|, W_h)             diagonal_part: str | None
#   linear_form() -> LinearForm | None
#   splits_call: whether __call__(carry, x) is step(carry, project(x))
CLAIMS = frozenset(
    {
        "fused_form",
        "gates",
        "memory_path",
        "slopes",
        "jacobian_bound",
        "diagonal_part",
        "linear_form",
        "splits_call",
    }
)
NOISE = frozenset({"noise", "noisy_project", "noisy_step"})

# Names by which a claim refers to the carry: data, but of the class.
_LABELS = frozenset({"carry_parts"})
# Weights: data, also of a class that computes them from others, or that has none and says None.
_WEIGHTS = frozenset({"kernel", "recurrent_kernel", "bias"})

# How an object comes to be, is shown, compared and copied.
_NO_PART_IN_A_STEP = (set(vars(object)) - {"__getattribute__"}) | {
    "__annotate__",
    "__annotate_func__",
    "__class_getitem__",
    "__copy__",
    "__deepcopy__",
    "__dict__",
    "__getnewargs__",
    "__getnewargs_ex__",
    "__nnx_repr__",
    "__post_init__",
    "__replace__",
    "__rich_repr__",
    "__setstate__",
    "__signature__",
    "__treescope_repr__",
    "__weakref__",
    "_abc_impl",
    "_as_written",
    "_initial_part",
    "initialize_carry",
    "num_feature_axes",
}
# Flax's bookkeeping of what is a node of the pytree.
_BOOKKEEPING = ("_pytree__", "_object__", "_graph_node")


class SelfDescribing:
    """Base of classes whose claims are void, too, when their methods are replaced on the class.

    What has been compiled before such a replacement stays as it was: `jax.jit` takes functions for
    constants.
    """

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        cls._as_written = dict(vars(cls))  # type: ignore[attr-defined]


def claim(cell: Any, name: str) -> Any:
    """What a cell tells of itself under a name, if it holds for the mathematics that it runs.

    Args:
      cell: any cell, also a `Partial` around one without arguments.
      name: one of `CLAIMS`.

    Returns:
      The method, bound to the cell, or the value; None if there is no such claim or it is void.
    """
    if isinstance(cell, functools.partial) and (cell.args or cell.keywords):
        return None  # Claims are about the function without these arguments.
    owner = owner_of(cell)
    return getattr(owner, name, None) if holds(owner, name) else None


def makes_claim(cell: Any, name: str) -> bool:
    """Whether a cell makes a claim that holds."""
    return claim(cell, name) is not None


def splits_call(cell: Any) -> bool:
    """Whether cell(carry, x) is cell.step(carry, cell.project(x)), whatever these two do."""
    return holds(cell, "splits_call", of=("__call__", "_check_carry")) and bool(cell.splits_call)


def holds(owner: Any, name: str, *, of: Iterable[str] | None = None) -> bool:
    """Whether an attribute was said of the methods that the object has now.

    Args:
      owner: the object.
      name: the attribute that says something of the others.
      of: the attributes that it speaks of; None is every one that may have a part in a step.
    """
    own = _data_of(owner)
    if name in own:
        return True
    lineage = type(owner).__mro__[:-1]
    position = next((k for k, cls in enumerate(lineage) if name in vars(cls)), None)
    if position is None:
        return False
    overriding, ancestry = lineage[:position], lineage[position:]
    known = {n for cls in ancestry for n in vars(cls)} - {name}
    spoken_of = known & set(of) if of is not None else known - _never_read(lineage[position])
    if any("__getattribute__" in vars(cls) for cls in overriding):
        return False
    return not any(
        _differs(n, own, overriding, ancestry) for n in spoken_of if not n.startswith(_BOOKKEEPING)
    )


def owner_of(cell: Any) -> Any:
    """The object that has a cell's methods.

    That is the cell, the function of a `Partial` (`as_pytree` wraps in one what is no pytree), or
    the object whose `__call__` a bound method is.
    """
    owner = cell.func if type(cell) is Partial else cell
    if inspect.ismethod(owner) and callable(owner.__self__):
        whole: Any = type(owner.__self__).__call__
        return owner.__self__ if owner.__func__ is whole else owner
    return owner


def _never_read(maker: type) -> set[str] | frozenset[str]:
    """Attributes that no step which `maker` knows reads.

    The steps of this package read no claims and draw no noise. Those of others may.
    """
    ours = maker.__module__.partition(".")[0] == __name__.partition(".")[0]
    return _NO_PART_IN_A_STEP | CLAIMS | NOISE if ours else _NO_PART_IN_A_STEP


def _differs(
    name: str, own: Mapping[str, Any], overriding: tuple[type, ...], ancestry: tuple[type, ...]
) -> bool:
    """Whether an object has another version of an attribute than the classes of a claim have."""
    versions = [vars(cls)[name] for cls in (*overriding, *ancestry) if name in vars(cls)]
    if name in _WEIGHTS and not any(_is_code(vars(cls).get(name)) for cls in ancestry):
        return False
    if name.startswith("__") and name.endswith("__"):
        # Python looks for these on the class alone, and writes some that are data itself.
        if not any(map(_is_code, versions)):
            return False
    elif name in own:
        if name in _LABELS:
            return bool(own[name] != versions[0])
        is_field = any(name in vars(cls).get("__dataclass_fields__", ()) for cls in ancestry)
        return _is_code(versions[0]) and not is_field
    return (
        any(name in vars(cls) for cls in overriding)
        or _comes_between(name, ancestry)
        or any(_replaced(cls, name) for cls in ancestry)
    )


def _comes_between(name: str, ancestry: tuple[type, ...]) -> bool:
    """Whether a class that the maker of a claim does not know has an attribute before one it does.

    With `class Both(Maker, Sibling)`, where both are subclasses of `Base`, Python asks `Sibling`
    before `Base`, also for what `Maker` inherits or asks `super()` for.
    """
    known = ancestry[0].__mro__
    of_maker = [cls in known for cls in ancestry if name in vars(cls)]
    return of_maker != sorted(of_maker, reverse=True)


def _replaced(cls: type, name: str) -> bool:
    """Whether an attribute of a class is no longer what it was when the class was made."""
    written, now = vars(cls).get("_as_written"), vars(cls)
    return written is not None and now.get(name) is not written.get(name)


def _is_code(value: Any) -> bool:
    """Whether an attribute of a class does something, as functions and properties do."""
    if isinstance(value, functools.cached_property):  # Its value is kept on the object, as data.
        return False
    return callable(value) or hasattr(type(value), "__get__")


def _data_of(owner: Any) -> Mapping[str, Any]:
    """What an object holds itself, apart from its class."""
    found = getattr(owner, "__dict__", {})
    return found if isinstance(found, Mapping) else {}
