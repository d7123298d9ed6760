"""What the kernels take of an H100 as compiled for one, on a machine that has none.

    JAX_PLATFORMS=cpu python -m benchmarks.gpu_resources > benchmarks/RESULTS_GPU_RESOURCES.md

of all precisions, or of those that are named behind it (tf32 bf16x3 tf32x3).
Needs what `make test-aot` sets up. Beside each kernel stands the prototype's, compiled in the same
way and kept in gpu_resources_prototype.csv.
"""

import csv
import functools
import importlib.util
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.experimental import topologies

import rnn_jax as rj
from rnn_jax.cells.structure import fused_form
from rnn_jax.sequence.kernels.adjoint import run_adjoint
from rnn_jax.sequence.kernels.card import H100
from rnn_jax.sequence.kernels.forward import run_forward
from rnn_jax.sequence.kernels.rules import Keep, StepRule, transposed
from rnn_jax.sequence.kernels.tiles import Choice, choose_tiles
from rnn_jax.sequence.running.step_rules import rule_of_recurrence, rule_of_tangent

HERE = Path(__file__).parent
STEPS = 100
KERNELS = ("forward", "adjoint", "tangent")
CELLS = {"LSTM": rj.LSTMCell, "GRU": rj.GRUCell, "simple RNN": rj.SimpleRNNCell}
# (rows, units) that the prototype was timed at.
SIZES = ((64, 32), (64, 64), (64, 128), (32, 128), (16, 256), (128, 512), (512, 128))


class Case(NamedTuple):
    """One kernel to compile.

    Attributes:
      cell: the cell.
      kernel: one of `KERNELS`.
      rows, units, members: B, H, M.
      precision: of the products.
      marked: whether sequences start and steps are skipped.
    """

    cell: Any
    kernel: str
    rows: int
    units: int
    members: int = 1
    precision: str = "tf32"
    marked: bool = False

    def rules(self) -> tuple[StepRule, StepRule, int]:
        """The rules of the recurrence and of its tangent, and how many streams that has."""
        form = fused_form(self.cell)
        assert form is not None
        carry = self.cell.initialize_carry((1, 1))
        recurrence = rule_of_recurrence(form.mathematics, carry)
        tangent = rule_of_tangent(form.mathematics, carry, recurrence.emits)
        return recurrence, tangent, recurrence.parts + recurrence.emits

    def choice(self) -> Choice:
        """The tiles of this case on an H100."""
        options: dict[str, Any] = {"precision": self.precision, "card": H100}
        which = "adjoint" if self.kernel == "adjoint" else "forward"
        options |= {"members": self.members, "which": which}
        return choose_tiles(self.rules()[0], self.rows, self.units, **options)

    def program(self) -> tuple[Any, tuple[Any, ...]]:
        """(a function that runs the kernel, shapes of its arguments)."""
        recurrence, tangent, streams = self.rules()
        tiles = self.choice().tiles
        assert tiles is not None
        options = {"precision": self.precision, "tiles": tiles}
        state = self._parts(recurrence)
        whole = (self._series(self.units),) * streams
        marks = jax.ShapeDtypeStruct((self.members, STEPS, self.rows), jnp.int32)
        marks_and_carries = (marks, state, state) if self.marked else (None, None, None)
        if self.kernel == "adjoint":
            run = functools.partial(self._adjoint, transposed(tangent), options)
            y = tuple(
                self._series(self.units) if i == tangent.hidden else None for i in range(len(state))
            )
            return run, (self._weights(tangent), y, state, marks_and_carries[0], whole)
        rule, keep = (recurrence, Keep(ys=True, starts=True, emitted=True))
        if self.kernel == "tangent":
            rule, keep = tangent, Keep(ys=True, carries=True)
        run = functools.partial(self._forward, rule, keep, options)
        drives = tuple(self._series(group.blocks * self.units) for group in rule.groups)
        given = whole if self.kernel == "tangent" else ()
        return run, (self._weights(rule), drives, state, *marks_and_carries, given)

    @staticmethod
    def _forward(rule: Any, keep: Any, options: Any, *arrays: Any) -> Any:
        weights, drives, carry, marks, initial, spare, streams = arrays
        marked = {"marks": marks, "initial": initial, "spare": spare}
        return run_forward(
            rule, weights, drives, carry, **marked, streams=streams, keep=keep, **options
        )

    @staticmethod
    def _adjoint(rule: Any, options: Any, *arrays: Any) -> Any:
        weights, y, last, marks, streams = arrays
        return run_adjoint(
            rule, weights, y, last, marks=marks, streams=streams, keep=Keep(), **options
        )

    def _series(self, width: int) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((self.members, STEPS, self.rows, width), jnp.float32)

    def _parts(self, rule: StepRule) -> tuple[jax.ShapeDtypeStruct, ...]:
        shape = (self.members, self.rows, self.units)
        return (jax.ShapeDtypeStruct(shape, jnp.float32),) * rule.parts

    def _weights(self, rule: StepRule) -> tuple[jax.ShapeDtypeStruct, ...]:
        kind = jnp.bfloat16 if self.precision == "bf16" else jnp.float32
        widths = [group.blocks * self.units for group in rule.groups if group.sees_state]
        shapes = [(self.members, self.units, width) for width in widths]
        return tuple(jax.ShapeDtypeStruct(shape, kind) for shape in shapes)


class Resources(NamedTuple):
    """What a kernel takes: of a thread, of a block, and bytes of a thread that went to memory."""

    registers: int
    shared: int
    spilled: int


@functools.cache
def _mesh() -> jax.sharding.Mesh:
    """Of one H100 that is not here."""
    described = (HERE.parent / "tests" / "ahead_of_time" / "h100.txtpb").read_text()
    topology = topologies.get_topology_desc(
        platform="cuda", topology_name="h100", target_config=described, topology="1x1x1"
    )
    return jax.sharding.Mesh([topology.devices[0]], "all")


def resources_of(case: Case) -> Resources:
    """Compiles a kernel for an H100 and reads what it takes."""
    function, shapes = case.program()
    everywhere = jax.sharding.NamedSharding(_mesh(), jax.sharding.PartitionSpec())
    arguments = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=everywhere), shapes
    )
    with tempfile.TemporaryDirectory() as folder:
        with jax.sharding.use_abstract_mesh(_mesh().abstract_mesh):
            lowered = jax.jit(function).trace(*arguments).lower()
        options = {"xla_dump_to": folder, "xla_dump_emitter_re": "ptx"}
        lowered.compile(compiler_options=options)
        return _read(Path(folder), "adjoint" if case.kernel == "adjoint" else "recurrence")


def _read(folder: Path, kernel: str) -> Resources:
    """What XLA has written of a program, and the assembler says of its kernel."""
    launches = "".join(path.read_text() for path in folder.glob("*thunk_sequence.txt"))
    shared = re.search(rf"\s{kernel} grid: .*shared_memory: (\d+)", launches)
    assert shared is not None, launches
    [code] = [path for path in folder.glob("*.ptx") if f".entry {kernel}(" in path.read_text()]
    assembler = importlib.util.find_spec("nvidia.cu13")
    assert assembler is not None
    [place] = assembler.submodule_search_locations or []
    command = [f"{place}/bin/ptxas", "-v", "-arch=sm_90a", "-o", f"{folder}/kernel", str(code)]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stderr
    registers = re.search(r"Used (\d+) registers", said)
    spilled = re.search(r"(\d+) bytes spill stores", said)
    assert registers is not None
    assert spilled is not None
    return Resources(int(registers[1]), int(shared[1]), int(spilled[1]))


def cell_of(kind: str, units: int) -> Any:
    """A cell in float32; its weights' values do not matter."""
    return CELLS[kind](1, units, param_dtype=jnp.float32, rngs=nnx.Rngs(0))


def prototype() -> dict[tuple[str, ...], Resources]:
    """By (cell, kernel, rows, units, precision) what the prototype took."""
    with (HERE / "gpu_resources_prototype.csv").open() as file:
        rows = list(csv.reader(file))
    return {tuple(row[:5]): Resources(*map(int, row[5:])) for row in rows[1:]}


def table(precisions: Sequence[str]) -> Iterator[str]:
    """The page, line by line."""
    yield "# What the kernels take of an H100"
    yield ""
    yield (
        f"Compiled ahead of time for an NVIDIA H100 (sm_90) by jax {jax.__version__}, not run. In "
        "brackets a prototype of these kernels, compiled in the same way; — where it does not fit."
    )
    yield "A thread has 255 registers, a block 227 KiB of shared memory. Spilled: bytes a thread."
    before = prototype()
    for precision in precisions:
        yield ""
        yield f"## {precision}"
        yield ""
        heads = ("cell", "rows, units", "kernel", "tile rows × slices, warps")
        yield f"| {' | '.join((*heads, 'registers', 'shared, KiB', 'spilled'))} |"
        yield "|---|---|---|---|---|---|---|"
        for kind in CELLS:
            for rows, units in SIZES:
                for kernel in KERNELS:
                    case = Case(cell_of(kind, units), kernel, rows, units, precision=precision)
                    key = (kind, kernel, str(rows), str(units), precision)
                    yield _line(kind, case, before.get(key))


def _line(kind: str, case: Case, before: Resources | None) -> str:
    place = f"| {kind} | {case.rows}, {case.units} | {case.kernel} |"
    tiles, reason = case.choice()
    if tiles is None:
        return f"{place} none: {reason} | | | |"
    found = resources_of(case)
    old = (
        [f"{before.registers}", f"{before.shared / 1024:.0f}", f"{before.spilled}"]
        if before
        else ["—"] * 3
    )
    new = [f"{found.registers}", f"{found.shared / 1024:.0f}", f"{found.spilled}"]
    pairs = (
        new if case.kernel == "tangent" else [f"{a} ({b})" for a, b in zip(new, old, strict=True)]
    )
    return f"{place} {tiles.rows} × {tiles.split}, {tiles.warps} | {' | '.join(pairs)} |"


if __name__ == "__main__":
    for line in table(sys.argv[1:] or ("tf32", "bf16x3", "tf32x3")):
        print(line, flush=True)
        print(line, file=sys.stderr)
