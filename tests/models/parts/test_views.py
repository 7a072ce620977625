"""Parts of a row's modalities, hidden at random."""

import jax
import numpy as np

from crl_jax.models.parts import views
from crl_jax.models.parts.noise import Noise, draw


def test_half_of_the_rows_keep_a_uniform_number_of_their_modalities():
  rows = 6000
  bits = draw(jax.random.split(jax.random.key(0), rows), 8)
  observed = np.array([1, 1, 0, 1, 1], bool)
  @jax.jit
  def drop(bits, rate):
    return jax.vmap(lambda b: views.drop_count(observed, Noise(b), rate))(bits)
  kept = np.asarray(drop(bits, 0.5))
  assert not (kept & ~observed).any()
  shares = np.bincount(kept.sum(1), minlength=5) / rows
  np.testing.assert_allclose(shares, [0, 1 / 6, 1 / 6, 1 / 6, 1 / 2], atol=0.02)
  some = kept[kept.sum(1) == 1]
  np.testing.assert_allclose(some.mean(0), [1 / 4, 1 / 4, 0, 1 / 4, 1 / 4], atol=0.05)
  assert (np.asarray(drop(bits, 0.0)) == observed).all()
  assert (np.asarray(drop(bits, 1.0)).sum(1) < 4).all()


def test_what_cannot_be_parted_stays_whole():
  bits = draw(jax.random.split(jax.random.key(0), 50), 8)
  for observed in (np.array([0, 1, 0, 0, 0], bool), np.zeros(5, bool)):
    kept = jax.vmap(lambda b, x=observed: views.drop_count(x, Noise(b), 1.0))(bits)
    assert (np.asarray(kept) == observed).all()
    assert views.drop_count(observed, None) is observed
