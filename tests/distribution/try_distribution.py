"""Tries a wheel or an sdist as a user gets it: `python try_distribution.py dist/*`.

Each is installed with its core dependencies into an environment of its own, and tried in an empty
folder, away from the source tree. `make wheel` runs this; it takes longer than a test may.
"""

import concurrent.futures
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
# Before matplotlib is there, each call that draws must say how to get it.
EXPECTED = "pip install 'rnn_jax[experiments]'"

PROBE = """
import importlib.metadata, importlib.resources, importlib.util, sys
from pathlib import Path
import rnn_jax
from rnn_jax.__main__ import OPTIONAL

here = Path(rnn_jax.__file__).parent
assert Path(sys.prefix) in here.parents, here
assert rnn_jax.__version__ == importlib.metadata.version("rnn_jax") == sys.argv[1]
assert (here / "py.typed").is_file()
for name in sys.argv[2:]:
    assert (here / name).is_file(), name
for one in OPTIONAL:
    assert importlib.util.find_spec(one.module) is None, one
"""


def ten_lines() -> str:
    """The first example of the README, as it stands."""
    return re.findall(r"^```python\n(.*?)^```", (ROOT / "README.md").read_text(), re.S | re.M)[0]


def version() -> str:
    """That of the source tree."""
    text = (ROOT / "rnn_jax" / "__init__.py").read_text()
    return re.findall(r'^__version__ = "(.+)"$', text, re.M)[0]


def data_files() -> list[str]:
    """Everything in the package that is no Python, by its path inside it."""
    package = ROOT / "rnn_jax"
    files = [path for path in package.rglob("*") if path.is_file()]
    return [str(path.relative_to(package)) for path in files if path.suffix not in (".py", ".pyc")]


def try_distribution(path: Path) -> str:
    """Installs it and tries it; raises with the output of what fails."""
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder) / "environment"
        # In a process of its own: where two threads make one each, the interpreter that one of them
        # is still writing is open in the child that the other starts, and cannot be run.
        subprocess.run([sys.executable, "-m", "venv", str(home)], check=True)
        python = home / ("Scripts" if os.name == "nt" else "bin") / "python"
        away = Path(folder) / "away"
        away.mkdir()

        def call(*arguments: str, code: int = 0) -> str:
            # Isolated: neither the folder nor PYTHONPATH may lend it the source tree.
            command = [str(python), "-I", *arguments]
            done = subprocess.run(command, cwd=away, capture_output=True, text=True, check=False)
            output = done.stdout + done.stderr
            if done.returncode != code:
                raise RuntimeError(f"{path.name}: {command} ended with {done.returncode}\n{output}")
            return output

        call("-m", "pip", "install", "--quiet", str(path))
        call("-c", PROBE, version(), *data_files())
        report = call("-m", "rnn_jax")
        for expected in (f"rnn_jax {version()}", "devices:", EXPECTED):
            if expected not in report:
                raise RuntimeError(
                    f"{path.name}: python -m rnn_jax says no {expected!r}:\n{report}"
                )
        # All but the picture runs; the picture says what it needs.
        output = call("-c", ten_lines(), code=1)
        if not output.strip().splitlines()[-1].endswith(f"Run {EXPECTED}."):
            raise RuntimeError(f"{path.name}: the ten lines end otherwise:\n{output}")
        if path.suffix == ".whl":
            call("-m", "pip", "install", "--quiet", "matplotlib")
            call("-c", "import matplotlib; matplotlib.use('Agg')\n" + ten_lines())
            if not (away / "flow.png").stat().st_size:
                raise RuntimeError(f"{path.name}: the ten lines left no picture")
    return f"{path.name}: imports, runs the ten lines of the README, and says what is missing"


def main() -> None:
    """Tries all that is named, two at a time."""
    paths = [Path(name).resolve() for name in sys.argv[1:]]
    if not paths:
        sys.exit("name the wheel or the sdist to try; python -m build makes them in dist/")
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        for line in pool.map(try_distribution, paths):
            print(line)


if __name__ == "__main__":
    main()
