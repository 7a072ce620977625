"""Views of a row: which of its observed modalities are left in sight."""

import jax.numpy as jnp


def drop_count(observed_M, noise, rate=0.5):
  """(M,) bool: all that is observed, or with probability `rate` a random part of it whose number is
  uniform in 1 .. c - 1 of the c > 1 that are (MUSE's rule). All of it where there is no noise."""
  if noise is None:
    return observed_M
  M = observed_M.shape[0]
  score_M = noise.take((M,)).astype(jnp.int32) * M + jnp.arange(M)   # no ties
  coin, pick = noise.take((2,)).astype(jnp.int32)
  count = observed_M.sum()
  above_MxM = (score_M[None] > score_M[:, None]) & observed_M[None]
  kept_M = observed_M & (above_MxM.sum(1) < 1 + pick % jnp.maximum(count - 1, 1))
  return jnp.where(coin < rate * 65536, kept_M, observed_M)
