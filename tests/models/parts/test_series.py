"""Encoders of series: which steps count, and that what does not exist is seen by nobody."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from crl_jax.models.parts import encoders, series

L, V = 6, 3
VALID = np.arange(L) < 4


@pytest.fixture(scope="module")
def x():
  """(L, 2 + 2V): four steps exist; the values of the second are all zero and measured."""
  rng = np.random.default_rng(0)
  x = rng.normal(size=(L, 2 + 2 * V)).astype(np.float32)
  x[:, 0], x[:, 1] = VALID, np.linspace(0, 1, L)
  x[:, 2 + V:] = rng.random((L, V)) < 0.6
  x[1, 2:2 + V], x[1, 2 + V:] = 0, 1
  x[~VALID] = 0
  return x


@pytest.fixture(scope="module", params=["gru", "transformer"])
def encoder(request, x):
  """(apply(x), the module's parameters)."""
  made = (series.TransformerEncoder(8, 0.0, 2) if request.param == "transformer" else
          series.RecurrentEncoder(8, 0.0, request.param))
  params = made.init(jax.random.key(0), x, None)
  # mapped over rows, as ever: attention has a gradient there alone
  mapped = jax.jit(jax.vmap(lambda x: made.apply(params, x, None)))
  return lambda x: mapped(x[None])[0]


def test_what_a_step_that_does_not_exist_holds_changes_nothing(encoder, x):
  other = x.copy()
  other[4:, 1:] = 1e3
  np.testing.assert_array_equal(encoder(x), encoder(other))
  gradient = np.asarray(jax.grad(lambda x: (encoder(x) ** 2).sum())(x))
  assert not gradient[4:, 1:].any() and gradient[:4, 2:].any()
  assert np.isfinite(encoder(np.zeros_like(x))).all()


def test_the_mean_patients_step_is_a_step(encoder, x):
  """All its scaled values are zero, and whether anything was measured or not: it was there."""
  for masks in (1, 0):
    there = x.copy()
    there[1, 2 + V:] = masks
    gone = there[[0, 2, 3, 4, 5, 5]]
    assert np.abs(np.asarray(encoder(there)) - encoder(gone)).max() > 1e-3


def test_a_masked_scan_is_the_cell_called_on_the_valid_steps():
  """Wherever they stand."""
  rng = np.random.default_rng(0)
  x, valid = rng.normal(size=(L, 4)).astype(np.float32), np.array([0, 1, 1, 0, 1, 0], bool)

  class Both(nn.Module):
    @nn.compact
    def __call__(self, x, valid, loop):
      cell = nn.OptimizedLSTMCell(5, name="cell")
      if not loop:
        return series.masked_scan(cell, x, valid)[0]
      carry = cell.initialize_carry(jax.random.key(0), x.shape[1:])
      for row in x[np.flatnonzero(np.asarray(valid))]:
        carry, _ = cell(carry, row)
      return carry
  params = Both().init(jax.random.key(0), x, valid, False)
  for a, b in zip(Both().apply(params, x, valid, False), Both().apply(params, x, valid, True)):
    np.testing.assert_allclose(a, b, atol=1e-6)
  half = jax.tree.map(lambda p: p.astype(jnp.bfloat16), (params, x))
  for a in Both().apply(half[0], half[1], valid, False):
    assert a.dtype == jnp.bfloat16


def test_a_sequences_mean_step_is_a_step_too():
  """Preprocessing marks it in a last channel (data/test_preprocess_series.py)."""
  x = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
  x[:, 2] = 1
  x[3, :2] = 0
  made = encoders.SequenceEncoder(8, 0.0)
  params = made.init(jax.random.key(0), x, None)
  apply = jax.jit(lambda x: made.apply(params, x, None))
  assert np.abs(np.asarray(apply(x)) - apply(x[:3])).max() > 1e-3
  padded = np.concatenate([x, np.zeros((2, 3), np.float32)])
  np.testing.assert_allclose(apply(padded), apply(x), atol=1e-6)
