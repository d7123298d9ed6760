"""Every cell's options on the command line, from the signature and docstring of its constructor."""

import dataclasses
import functools
import inspect
import re
import types
import typing
from collections.abc import Callable, Sequence
from typing import Annotated, Any, ClassVar, Literal

import tyro
from flax import nnx

import rnn_jax as rj
from rnn_jax.activations import ACTIVATIONS, ActivationLike
from rnn_jax.initializers import InitializerLike

# What an experiment settles for all of its cells.
_SETTLED = {"self", "in_features", "hidden_features", "dtype", "carry_dtype", "param_dtype", "rngs"}
# Longer names than one likes to type, with what stands for them as well.
_SHORT = {"recurrent_kernel_init": "recurrent_init"}

_INITIALISERS = (
    "Initialisers are given by name, quoted if with arguments, as 'gaussian(1.5)'. Of kernels: "
    f"{', '.join(rj.initializers.names('kernel').values())}. Of biases: "
    f"{', '.join(rj.initializers.names('bias').values())}."
)


@dataclasses.dataclass(frozen=True)
class CellOptions:
    """What a cell is built with, beside its sizes; see `options_of`."""

    cell: ClassVar[type[Any]]

    def build(self, inputs: int, hidden: int, rngs: nnx.Rngs) -> Any:
        """A cell of these sizes."""
        chosen = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return self.cell(inputs, hidden, rngs=rngs, **chosen)


def cells() -> dict[str, type[Any]]:
    """Every cell of `rj.cells` by the name that is typed: its own in lower case, without "Cell"."""
    public = (getattr(rj.cells, name) for name in rj.cells.__all__)
    found = {
        kind.__name__.removesuffix("Cell").lower(): kind
        for kind in public
        if inspect.isclass(kind) and issubclass(kind, rj.RNNCell) and kind is not rj.RNNCell
    }
    return {"simple": found.pop("simplernn"), **found}


@functools.cache
def options_of(cell: type[Any]) -> type[Any]:
    """A dataclass of the keyword arguments of a cell's constructor, with its docstring's words.

    Initialisers and activations are given by name. Whether all of it fits is for the constructor to
    say; see `checked`.

    Args:
      cell: a class of `rj.cells`.

    Returns:
      A subclass of `CellOptions`, the same one for the same cell.

    Raises:
      TypeError: an argument of a type that no command line has.
    """
    hints = typing.get_type_hints(cell.__init__)
    words = _described(cell)
    fields: list[Any] = []
    for parameter in inspect.signature(cell.__init__).parameters.values():
        name = parameter.name
        if name in _SETTLED:
            continue
        typed = _typed(cell, name, hints[name])
        aliases = [f"--cell.{_SHORT[name].replace('_', '-')}"] if name in _SHORT else None
        shown = tyro.conf.arg(help=words.get(name, ""), aliases=aliases)
        fields.append((name, Annotated[typed, shown], dataclasses.field(default=parameter.default)))
    options = dataclasses.make_dataclass(
        f"{cell.__name__.removesuffix('Cell')}Options",
        fields,
        bases=(CellOptions,),
        namespace={"cell": cell},
        frozen=True,
        kw_only=True,
    )
    options.__doc__ = f"{cell.__name__}. {(inspect.getdoc(cell) or '').splitlines()[0]}"
    if any("_init" in field.name for field in dataclasses.fields(options)):
        options.__doc__ += f"\n\n{_INITIALISERS}"
    return options


def checked(options: CellOptions, build: Callable[[], Any]) -> None:
    """Builds once without computing anything, so that what does not fit is said at once.

    Args:
      options: where the message finds the names of options.
      build: what is built with them.

    Raises:
      ValueError, TypeError: those of the constructor, about options as they are typed.
    """
    try:
        nnx.eval_shape(build)
    except (TypeError, ValueError) as error:
        said = str(error)
        for field in dataclasses.fields(options):
            # A name of one word may stand for something else later on.
            before = r"(\b)" if "_" in field.name else "^(each of |)"
            flag = f"--cell.{field.name.replace('_', '-')}"
            said = re.sub(rf"{before}{field.name}\b", rf"\1{flag}", said)
        raise type(error)(said) from error


# By what stands in an argument's type, what it is on a command line; the first that fits.
_TYPED: tuple[tuple[Any, Any], ...] = (
    (ActivationLike, Literal.__getitem__(tuple(ACTIVATIONS))),
    (InitializerLike, str),
    (bool, bool),
    (int, int),
    (float, float),
    (Sequence[int], tuple[int, ...]),
)


def _typed(cell: type[Any], name: str, hint: Any) -> Any:
    """What an argument of a constructor is on a command line."""
    within = set(typing.get_args(hint)) if isinstance(hint, types.UnionType) else {hint}
    for kind, typed in _TYPED:
        parts = set(typing.get_args(kind)) if isinstance(kind, types.UnionType) else {kind}
        if within >= parts:
            return typed | None if type(None) in within else typed
    raise TypeError(
        "an argument of a cell must be a number, a flag, an activation or an initialiser, to stand "
        f"on a command line; got {name}: {hint} of {cell.__name__}. Add its type to _TYPED."
    )


def _described(cell: type[Any]) -> dict[str, str]:
    """The words of a docstring about each argument."""
    lines = (inspect.getdoc(cell) or "").partition("\nArgs:\n")[2].splitlines()
    words: dict[str, str] = {}
    current: list[str] = []
    for line in lines:
        entry = re.match(r"  (\w+(?:, \w+)*): (.*)", line)
        if entry:
            current = entry[1].split(", ")
            words |= dict.fromkeys(current, entry[2])
        elif line.startswith("    "):
            words |= {name: f"{words[name]} {line.strip()}" for name in current}
        else:
            break
    return words
