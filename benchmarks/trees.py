"""Two versions of the package side by side: is one slower than the other?

python -m benchmarks.trees OLD NEW                    # two folders that each hold an rnn_jax
python -m benchmarks.trees OLD NEW --only gradient --shapes 64,200,2,128
python -m benchmarks.trees OLD NEW --only "first call,fit" --rounds 5
python -m benchmarks.trees OLD NEW --list

Each version runs in a process of its own, and only one of them runs at a time: a round of the one,
then the same of the other, in alternating order, so that a slow spell of the machine hits both. A
round repeats a case until it has taken about `--milliseconds`. What is printed: milliseconds a run,
best and median, of both; NEW ÷ OLD of the best rounds; the median over rounds of that quotient; and
the quotient of the processors' time, which does not count waiting for a busy machine. A folder for
OLD is made by `git worktree add ../old main`.
"""

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro

from benchmarks.timing import parts_of

HERE = Path(__file__).parents[1]
SHAPES = ("64,200,2,128", "16,1000,32,256", "128,100,128,512", "32,200,64,128")


@dataclass(frozen=True)
class Config:
    """Time two source trees of the package in alternation."""

    old: Annotated[Path, tyro.conf.Positional]
    """The folder that holds the rnn_jax to compare with."""
    new: Annotated[Path, tyro.conf.Positional]
    """The folder that holds the rnn_jax that must not be slower."""
    only: str = ""
    """Only cases whose name holds this text, or one of several with commas between them."""
    shapes: tuple[str, ...] = SHAPES
    """Batch, steps, input features, hidden features of the batched cases; see --list."""
    rounds: int = 9
    """Counted rounds of each case."""
    milliseconds: float = 100.0
    """How long a round takes at least, where a case can be repeated."""
    out: Path | None = None
    """Write the table here, too."""
    list: bool = False
    """Print the names of the cases and end."""


class Worker:
    """A process that has imported the package from one tree, and times what it is asked to."""

    def __init__(self, tree: Path, shapes: tuple[str, ...]):
        self.tree = tree
        environment = os.environ | {"PYTHONPATH": str(HERE)}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.trees", "--worker", str(tree), *shapes],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.cases: dict[str, bool] = self._answer()

    def time(self, case: str, times: int) -> dict[str, Any]:
        """Milliseconds a run of a round: {"wall", "cpu"}, or {"error"}."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps([case, times]) + "\n")
        self._process.stdin.flush()
        answer: dict[str, Any] = self._answer()
        return answer

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self.end()
            raise SystemExit(
                f"the process for {self.tree} ended with {self._process.returncode}; see its error "
                "above. The folder must hold a package rnn_jax that imports."
            )
        return json.loads(line)

    def end(self) -> None:
        """Lets the process end."""
        # Which closes its input, and waits.
        self._process.communicate()


def main() -> None:
    """Times and prints."""
    config = tyro.cli(Config)
    if config.rounds < 1:
        raise SystemExit(f"--rounds must be at least 1; got {config.rounds}. Pass 1 or more.")
    workers = [Worker(tree.resolve(), config.shapes) for tree in (config.old, config.new)]
    try:
        _run(config, workers)
    finally:
        for worker in workers:
            worker.end()


def _run(config: Config, workers: list[Worker]) -> None:
    wanted = parts_of(config.only)
    names = [name for name in workers[0].cases if any(text in name.lower() for text in wanted)]
    if not names:
        raise SystemExit(f"--only must be part of a case's name; got {config.only!r}. See --list.")
    if config.list:
        print("\n".join(names))
        return
    lines = [
        "| | OLD | NEW | NEW ÷ OLD, best | rounds' median | processors' time |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    print(*lines, sep="\n", flush=True)
    for name in names:
        lines.append(f"| {name} | {compare(name, workers, config.rounds, config.milliseconds)} |")
        print(lines[-1], flush=True)
        if config.out is not None:
            config.out.write_text("\n".join(lines) + "\n", encoding="utf-8")


def compare(case: str, workers: list[Worker], rounds: int, milliseconds: float) -> str:
    """The cells of a row."""
    once = workers[0].cases[case]
    times = 1
    for _ in range(1 if once else 2):  # The first one compiles, the second one tells how long.
        first = [worker.time(case, 1) for worker in workers]
        errors = [answer["error"] for answer in first if "error" in answer]
        if errors:
            return f"{errors[0]} | – | – | – | –"
        if not once:
            times = max(1, round(milliseconds / min(answer["wall"] for answer in first)))
    wall: list[list[float]] = [[], []]
    cpu: list[list[float]] = [[], []]
    for turn in range(rounds):
        for which in (0, 1) if turn % 2 == 0 else (1, 0):
            answer = workers[which].time(case, times)
            if "error" in answer:
                return f"{answer['error']} | – | – | – | –"
            wall[which].append(answer["wall"])
            cpu[which].append(answer["cpu"])
    old, new = np.array(wall)
    columns = [f"{min(ms):.2f} ({np.median(ms):.2f})" for ms in (old, new)]
    columns += [f"{new.min() / old.min():.2f}", f"{np.median(new / old):.2f}"]
    columns.append(f"{min(cpu[1]) / min(cpu[0]):.2f}")
    return " | ".join(columns)


def work(tree: str, shapes: list[str]) -> None:
    """Answers with the names of the cases, then to each line [case, times] with its time."""
    answers = os.fdopen(os.dup(1), "w")
    # Whatever a library prints is not an answer.
    os.dup2(2, 1)
    # Before the folder of these benchmarks, whose own rnn_jax is another one.
    sys.path.insert(0, tree)
    import rnn_jax

    if Path(tree) not in Path(rnn_jax.__file__).parents:
        raise SystemExit(f"{tree} must hold the package; rnn_jax came from {rnn_jax.__file__}.")
    from benchmarks.tree_cases import cases

    known = cases([tuple(map(int, shape.split(","))) for shape in shapes])  # type: ignore[misc]
    made: tuple[str, Any] = ("", None)

    def answer(what: Any) -> None:
        answers.write(json.dumps(what) + "\n")
        answers.flush()

    answer({name: case.once for name, case in known.items()})
    for line in sys.stdin:
        name, times = json.loads(line)
        try:
            if made[0] != name:
                made = (name, known[name].make())
            start, processors = time.perf_counter(), time.process_time()
            taken = made[1](times)
            spent = 1e3 * (time.process_time() - processors) / times
            if taken is None:
                taken = 1e3 * (time.perf_counter() - start) / times
            answer({"wall": taken, "cpu": spent})
        except Exception as error:  # A call that one of the versions does not have is a result.
            answer({"error": f"{type(error).__name__}: {str(error).splitlines()[0][:80]}"})


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        work(sys.argv[2], sys.argv[3:])
    else:
        main()
