"""What forecasts have in common, and what their present alone says of their future."""

from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from rnn_jax.checks import check_count, check_key, check_number, check_size
from rnn_jax.tasks.base import Batch, SquaredError


class Forecast(SquaredError):
    """A stationary series x: at every step t, given x_t, say x_{t+horizon}.

    A task that inherits it has the fields below, a property `chance_loss`, and `_series`.

    Attributes:
      length: T, in steps.
      horizon: how many steps ahead.
      washout: the first steps, which weigh nothing, since a few must be seen before anyone can tell
        where the series is; None is a quarter of the length.
      solved_share: the share of the chance loss under which it counts as solved.
    """

    length: int
    horizon: int
    washout: int | None
    solved_share: float

    readout: ClassVar[str] = "all"

    def __post_init__(self) -> None:
        length = check_size("length", self.length)
        check_size("horizon", self.horizon)
        if self.washout is not None and check_count("washout", self.washout) >= length:
            raise ValueError(
                f"washout must be less than the length, {length}, or no step counts; got "
                f"{self.washout}. Pass for example washout={length // 4}."
            )
        if not 0 < check_number("solved_share", self.solved_share) < 1:
            raise ValueError(
                f"solved_share must be a share of the chance loss in (0, 1); got "
                f"{self.solved_share}. Pass for example solved_share=0.05."
            )

    @property
    def steps(self) -> int:
        """T, in steps."""
        return self.length

    @property
    def in_features(self) -> int:
        """I: the series now."""
        return 1

    @property
    def out_features(self) -> int:
        """O: the series `horizon` steps later."""
        return 1

    @property
    def chance_loss(self) -> float:
        """Mean squared error of the predictor that remembers nothing: Var(x_{t+horizon} | x_t)."""
        raise NotImplementedError

    @property
    def solved_below(self) -> float:  # type: ignore[override]
        """The mean squared error under which it counts as solved."""
        return self.solved_share * self.chance_loss

    def sample(self, key: jax.Array, batch_size: int) -> Batch:
        """Draws a batch.

        Args:
          key: a JAX random key.
          batch_size: B.

        Returns:
          inputs (B, T, 1); targets (B, T, 1), the inputs `horizon` steps later; weights (B, T),
          0 in the washout.
        """
        size = check_size("batch_size", batch_size)
        series = self._series(check_key(key), size, self.length + self.horizon)[..., None]
        first = self.length // 4 if self.washout is None else self.washout
        counted = (jnp.arange(self.length) >= first).astype(series.dtype)
        weights = jnp.broadcast_to(counted, (size, self.length))
        return Batch(series[:, : self.length], series[:, self.horizon :], weights)

    def _series(self, key: jax.Array, size: int, steps: int) -> jax.Array:
        """(size, steps): pieces of the series that start anywhere in it."""
        raise NotImplementedError


def conditional_variance(present: Any, future: Any, bins: int = 200) -> float:
    """E Var(future | present), from pairs of NumPy arrays of one shape.

    In each of `bins` parts that hold as many pairs, ordered by the present, a line is fitted, and
    what it leaves is averaged. More bins follow a curved mean better and fit more noise; both
    errors are of second order and small among many pairs.
    """
    order = np.argsort(present, axis=None)
    each = order.size // bins
    x, y = (
        values.ravel()[order][: bins * each].reshape(bins, each) for values in (present, future)
    )
    x, y = x - x.mean(axis=1, keepdims=True), y - y.mean(axis=1, keepdims=True)
    spread = np.maximum((x * x).sum(axis=1), np.finfo(x.dtype).tiny)
    left = (y * y).sum(axis=1) - (x * y).sum(axis=1) ** 2 / spread
    return float(left.mean() / each)
