"""What a search found: points with their linearization, one row each."""

from __future__ import annotations

import dataclasses
import json
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from rnn_jax.sequence.calling import describe

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_FORMAT = "rnn_jax fixed points 1"
_ARRAYS = (
    "points", "orbits", "speeds", "is_fixed", "jacobians", "eigenvalues", "radius", "uniqueness",
    "counts", "labels", "x",
)  # fmt: skip


@dataclasses.dataclass(frozen=True, eq=False)
class FixedPoints:
    """Fixed points, or periodic orbits, and slow points of a cell under a constant input.

    Rows are sorted: true fixed points before slow ones, stable ones before saddles with ever more
    unstable directions, and those that more starts led to first. All arrays are NumPy's.

    Attributes:
      points: flattened carries, (N, S): one point of each orbit.
      carries: the same in the cell's own structure, each leaf with a leading axis N.
      orbits: all points of each orbit, (N, period, S); a fixed point is one of period 1.
      speeds: ‖F(h) − h‖₂, (N,); of an orbit over all its points.
      is_fixed: (N,), True where the speed is 0 up to rounding; False at a slow point, a minimum of
        the speed that is not 0, where the network passes slowly.
      jacobians: ∂h'/∂h, of an orbit over one whole period, (N, S, S).
      eigenvalues: of `jacobians`, largest modulus first, complex, (N, S).
      radius: a certificate, (N,): in exact arithmetic there is a fixed point (an orbit) within this
        distance of the row, in the largest of all coordinates; NaN where there is no proof, as of
        cells that this package does not know, at bifurcations, or far out where gates are 1 up to
        rounding and a step is 0 only for that.
      uniqueness: and no other within this distance, (N,); NaN where there is no proof.
      counts: how many starts led to it, (N,); 0 if only one halfway between two others did.
      labels: the row that each start led to, (M,); −1 for those that led to none.
      x: the input, (I,).
      period: n.
      lower_period: starts that led to an orbit of a shorter period, which is none of period n.
      unsettled: starts that led to none: still moving after `max_steps`, at a point too fast to be
        called slow, or diverged.

    Example:
      >>> starts = rj.sample_starts(cell, xs, 16, key=jax.random.key(0))
      >>> found = rj.fixed_points(cell, jnp.zeros(2), starts=starts)
      >>> print(found.summary().splitlines()[0])
      1 fixed points: 1 stable, 0 unstable; 0 slow points
      >>> bool(found.certified.all())  # Proven to exist
      True
    """

    points: np.ndarray
    carries: Any
    orbits: np.ndarray
    speeds: np.ndarray
    is_fixed: np.ndarray
    jacobians: np.ndarray
    eigenvalues: np.ndarray
    radius: np.ndarray
    uniqueness: np.ndarray
    counts: np.ndarray
    labels: np.ndarray
    x: np.ndarray
    period: int
    lower_period: int
    unsettled: int

    def __len__(self) -> int:
        return len(self.points)

    @property
    def spectral_radius(self) -> np.ndarray:
        """max|λ|, (N,)."""
        return np.abs(self.eigenvalues[:, 0])

    @property
    def stable(self) -> np.ndarray:
        """Whether all |λ| < 1, (N,), of slow points too; `margin` says by how much."""
        return self.spectral_radius < 1

    @property
    def margin(self) -> np.ndarray:
        """1 − max|λ|, (N,): positive where stable; near 0, linearization cannot tell."""
        return 1 - self.spectral_radius

    @property
    def unstable_directions(self) -> np.ndarray:
        """How many |λ| ≥ 1, (N,)."""
        return (np.abs(self.eigenvalues) >= 1).sum(axis=1)

    @property
    def time_constants(self) -> np.ndarray:
        """−n / ln|λ|, steps in which a perturbation falls by a factor of e, (N, S).

        Negative where it grows by that; infinite at |λ| = 1; 0 at λ = 0.
        """
        with np.errstate(divide="ignore"):
            return -self.period / np.log(np.abs(self.eigenvalues))

    @property
    def frequencies(self) -> np.ndarray:
        """|arg λ| / 2πn, turns a step, (N, S): 0 without rotation, 1/2n for alternating signs."""
        return np.abs(np.angle(self.eigenvalues)) / (2 * np.pi * self.period)

    @property
    def indices(self) -> np.ndarray:
        """sign det(1 − ∂h'/∂h), (N,): +1 or −1, 0 where it is singular.

        Where states cannot leave a ball, as those of gated cells and of bounded activations, the
        indices of all fixed points sum to 1 (Lefschetz, 1926; for finitely many, none of index 0):
        another sum says that some are missing.
        """
        return np.linalg.slogdet(np.eye(self.points.shape[1]) - self.jacobians)[0]

    @property
    def certified(self) -> np.ndarray:
        """Whether the point is proven to exist, (N,)."""
        return np.isfinite(self.radius)

    def select(self, rows: Any) -> FixedPoints:
        """Some of the rows, by a mask (N,), indices or a slice: `found.select(found.stable)`.

        `labels` refer to the rows that are left, and are −1 where a start led to another one.
        """
        kept = np.arange(len(self))[rows]
        new = np.full(len(self) + 1, -1)  # The last is where −1 points to.
        new[kept] = np.arange(len(kept))
        whole = {
            "labels": new[self.labels],
            "carries": jax.tree.map(lambda a: a[kept], self.carries),
        }
        rowwise = set(_ARRAYS) - {"labels", "x"}
        return dataclasses.replace(
            self, **whole, **{name: getattr(self, name)[kept] for name in rowwise}
        )

    def summary(self) -> str:
        """What was found, in a few lines."""
        kind = "fixed points" if self.period == 1 else f"orbits of period {self.period}"
        fixed, stable = self.is_fixed, self.is_fixed & self.stable
        unstable = fixed & ~self.stable
        lines = [
            f"{fixed.sum()} {kind}: {stable.sum()} stable, {unstable.sum()} unstable; "
            f"{(~fixed).sum()} slow points",
            f"{(fixed & self.certified).sum()} proven to exist"
            + (
                f", within {np.nanmax(self.radius):.1e} of where they are listed"
                if self.certified.any()
                else ""
            ),
        ]
        if fixed.any():
            margin = self.margin[fixed][np.argmin(np.abs(self.margin[fixed]))]
            lines.append(
                f"speed at most {self.speeds[fixed].max():.1e}; nearest to a change of stability: "
                f"1 − |λ| = {margin:.2g}"
            )
            if self.period == 1:
                total = int(self.indices[fixed].sum())
                known = (
                    "as for all points of a bounded network"
                    if total == 1
                    else ("1 if none is missing and the network is bounded")
                )
                lines.append(f"indices sum to {total}: {known}")
        starts = len(self.labels)
        lines.append(
            f"{starts} starts: {(self.labels >= 0).sum()} led here"
            + (f", {self.lower_period} to shorter periods" if self.period > 1 else "")
            + f", {self.unsettled} settled nowhere"
        )
        return "\n".join(lines)

    def plot(self, ax: Axes | None = None, **options: Any) -> Axes:
        """The points in the plane of the leading principal components.

        Args:
          ax: where to draw; None makes a figure.
          options: of `rnn_jax.plotting.plot_fixed_points`.

        Returns:
          A matplotlib `Axes`, whose `figure` can be saved; needs the `experiments` extra.
        """
        # Here and not above: importing this package must not import matplotlib.
        from rnn_jax.plotting.fixed_point_plane import plot_fixed_points

        return plot_fixed_points(self, ax=ax, **options)

    def save(self, path: str | Path) -> Path:
        """Writes all of it into one file, NumPy's `.npz`, without pickle.

        Args:
          path: where; an existing file is written over.

        Returns:
          The path.
        """
        path = Path(path)
        numbers = {"period": self.period, "lower_period": self.lower_period}
        head = {
            "format": _FORMAT,
            **numbers,
            "unsettled": self.unsettled,
            "carry": _structure(self.carries),
        }
        arrays = {name: getattr(self, name) for name in _ARRAYS}
        leaves = {f"carry_{k}": leaf for k, leaf in enumerate(jax.tree.leaves(self.carries))}
        with path.open("wb") as file:
            np.savez(file, head=np.asarray(json.dumps(head)), **arrays, **leaves)
        return path

    @classmethod
    def load(cls, path: str | Path, *, like: Any = None) -> FixedPoints:
        """Reads what `save` has written.

        Args:
          path: the file.
          like: a carry of the cell; needed where the carry is made of other containers than tuples,
            lists and dicts.

        Raises:
          ValueError: it is no such file, or damaged, or `like` has another number of leaves.
          TypeError: `like` is needed.
        """
        path = Path(path)
        try:
            with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
                head = json.loads(str(file["head"]))
                if head["format"] != _FORMAT:
                    raise ValueError(f"its format is {head['format']!r}")
                arrays = {name: file[name] for name in _ARRAYS}
                count = sum(name.startswith("carry_") for name in file.files)
                leaves = [file[f"carry_{k}"] for k in range(count)]
        except FileNotFoundError:
            raise
        except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
            raise ValueError(
                f"{path} must be a file that FixedPoints.save has written; it could not be read: "
                f"{error}. Find the points anew, or take another copy."
            ) from error
        counts: dict[str, Any] = {
            name: int(head[name]) for name in ("period", "lower_period", "unsettled")
        }
        return cls(**arrays, **counts, carries=_rebuilt(head["carry"], leaves, like))


def _structure(tree: Any) -> Any:
    """A pytree of plain containers as JSON says it; None for others.

    A leaf is its own place among the leaves.
    """
    leaves, treedef = jax.tree.flatten(tree)
    numbered = jax.tree.unflatten(treedef, list(range(len(leaves))))
    return _plain(numbered)


def _plain(tree: Any) -> Any:
    if type(tree) is int:
        return tree
    if tree is None:  # a part without leaves
        return ["none", []]
    if type(tree) in (tuple, list):
        items = [_plain(item) for item in tree]
        return None if None in items else [type(tree).__name__, items]
    if type(tree) is dict and all(isinstance(key, str) for key in tree):
        items = [[key, _plain(item)] for key, item in tree.items()]
        return None if any(item is None for _, item in items) else ["dict", items]
    return None


def _rebuilt(structure: Any, leaves: list[np.ndarray], like: Any) -> Any:
    if like is not None:
        form: Any = jax.tree.structure(like)
        if form.num_leaves != len(leaves):
            raise ValueError(
                f"like must be a carry of the cell, of {len(leaves)} leaves; got {describe(like)}. "
                "Pass the carry that the points were found with."
            )
        return jax.tree.unflatten(form, leaves)
    if structure is None:
        raise TypeError(
            "the carries that were saved are made of other containers than tuples, lists and "
            "dicts, which a file cannot hold: loading needs one of them; got like=None. Pass "
            "like=carry."
        )
    return _read(structure, leaves)


def _read(structure: Any, leaves: list[np.ndarray]) -> Any:
    if isinstance(structure, int):
        return leaves[structure]
    kind, items = structure
    if kind == "none":
        return None
    if kind == "dict":
        return {key: _read(item, leaves) for key, item in items}
    read = [_read(item, leaves) for item in items]
    return tuple(read) if kind == "tuple" else read
