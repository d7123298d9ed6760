"""`python -m rnn_jax`: versions, devices, and which optional packages are installed."""

import argparse
import importlib.metadata
import importlib.util
import os
import platform
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple, NoReturn

import jax
from rich.console import Console
from rich.table import Table
from rich.text import Text

CORE = ("jax", "jaxlib", "flax", "optax")


class Optional(NamedTuple):
    """A package that some of this one needs: as pip calls it, as Python does, and what it gives."""

    package: str
    module: str
    extra: str
    gives: str


OPTIONAL = (
    Optional("matplotlib", "matplotlib", "experiments", "pictures: .plot() and rnn_jax.plotting"),
    Optional("tyro", "tyro", "experiments", "command lines of the experiments"),
    Optional("scikit-learn", "sklearn", "experiments", "tasks.SequentialDigits"),
    Optional("tensorboardX", "tensorboardX", "tensorboard", "fit(..., tensorboard=True)"),
    Optional("torch", "torch", "peers", "convert.to_torch and from_torch"),
    Optional("keras", "keras", "peers", "convert.to_keras and from_keras"),
    Optional("equinox", "equinox", "peers", "its cells in unroll, gradient_flow …"),
)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """One line in place of usage and line."""
        self.exit(2, f"{self.prog}: {message}; it takes --help and --version only.\n")


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints what is here, or exits with 2 and one line for arguments that it does not know."""
    from rnn_jax import __version__  # Here, as parts of the package do not import the whole.

    parser = _Parser(prog="python -m rnn_jax", description=__doc__, allow_abbrev=False)
    parser.add_argument("--version", action="version", version=f"rnn_jax {__version__}")
    parser.parse_args(arguments)
    # Not cut off or wrapped where another program reads it.
    console = Console(soft_wrap=True, highlight=False, markup=False)
    console.print(f"rnn_jax {__version__}")
    console.print(f"Python {platform.python_version()}, {platform.system()} {platform.machine()}")
    console.print(", ".join(f"{name} {_version(name)}" for name in CORE))
    console.print(_devices())
    console.print()
    console.print(_table())
    for extra in dict.fromkeys(one.extra for one in OPTIONAL if not _is_installed(one)):
        missing = [one.package for one in OPTIONAL if one.extra == extra and not _is_installed(one)]
        console.print(f"{', '.join(missing)}: pip install 'rnn_jax[{extra}]'")


def _devices() -> str:
    """The backend and its devices, or why there are none."""
    try:
        found = Counter(device.device_kind for device in jax.devices())
    except Exception as error:  # Whatever a plugin raises; the rest of the report is needed then.
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        asked = os.environ.get("JAX_PLATFORMS")
        where = f" for JAX_PLATFORMS={asked}" if asked else ""
        return f"no device could be initialised{where}: {first}"
    kinds = ", ".join(f"{count} × {kind}" for kind, count in found.items())
    return f"backend {jax.default_backend()}, devices: {kinds}"


def _table() -> Table:
    table = Table("optional", "installed", "extra", "gives", box=None, pad_edge=False)
    for one in OPTIONAL:
        installed = _is_installed(one)
        state = Text(_version(one.package), "green") if installed else Text("no", "yellow")
        table.add_row(Text(one.package), state, Text(one.extra), Text(one.gives))
    return table


def _is_installed(one: Optional) -> bool:
    """Found, not imported: some take seconds to import."""
    return importlib.util.find_spec(one.module) is not None


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "of unknown version"


if __name__ == "__main__":
    main()
