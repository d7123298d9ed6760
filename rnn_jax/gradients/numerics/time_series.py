"""Statistics of time averages: of stretches, and of samples that are correlated."""

import jax
import jax.numpy as jnp


def standard_error_of_sum(samples: jax.Array) -> jax.Array:
    """Standard error of the sum of a stationary series, by overlapping batch means.

    n · Var(mean) ≈ n·b / ((n − b)(n − b + 1)) · Σ_j (mean of batch j − mean)²,    b = ⌊n^⅔⌋

    Batches longer than the correlation time average it out, so that correlated samples are not
    counted as if each were news, nor oscillating ones as noise. All n − b + 1 batches of b
    neighbours enter.

    Args:
      samples: (n, k), one column for each series.

    Returns:
      (k,); NaN for fewer than 4 samples, of which nothing can be said.

    References:
      M. Meketon and B. Schmeiser, "Overlapping batch means: something for nothing?", 1984;
      J. Flegal and G. Jones, "Batch means and spectral variance estimators in Markov chain Monte
      Carlo", 2010.
    """
    n = samples.shape[0]
    if n < 4:
        return jnp.full(samples.shape[1:], jnp.nan, samples.dtype)
    batch = min(int(n ** (2 / 3) + 1e-9), n // 2)
    mean = jnp.mean(samples, axis=0)
    centred = samples - jnp.broadcast_to(mean, samples.shape)
    sums = jnp.cumsum(jnp.concatenate([jnp.zeros_like(centred[:1]), centred]), axis=0)
    batch_means = (sums[batch:] - sums[:-batch]) / batch
    variance = n * batch / ((n - batch) * (n - batch + 1)) * jnp.sum(batch_means**2, axis=0)
    # A series without any noise has the error 0, whose root has no derivative: 0 stands for it.
    noisy = variance != 0
    root = jnp.sqrt(n * jnp.where(noisy, variance, jnp.ones_like(variance)))
    return jnp.where(noisy, root, jnp.zeros_like(root))


def sums_by_stretch(samples: jax.Array, length: int) -> jax.Array:
    """Sums over consecutive stretches of so many samples, time being the second last axis.

    What is left over at the end is dropped.
    """
    *batch, n, k = samples.shape
    count = n // length
    stretches = samples[..., : count * length, :].reshape(*batch, count, length, k)
    return jnp.sum(stretches, axis=-2)
