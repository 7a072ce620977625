"""What makes the models of irregular series the methods that they are."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from crl_jax.models import irregular
from tests.small_engine import batch_of, built, make_data, seen

L, V = 4, 2


@pytest.fixture(scope="module")
def data():
  return make_data(("series",))


def series(values, masks, hours, valid=True):
  """(B, L, 2 + 2V) of B rows."""
  full = lambda x: np.broadcast_to(np.asarray(x, np.float32), (len(values), L))[..., None]
  return np.concatenate([full(valid), full(hours), values, masks], -1).astype(np.float32)


@pytest.fixture(scope="module")
def gru_d(data):
  """Drawn parameters, (params, rows of series) -> states, and values of eight rows."""
  _, params, _ = built("gru_d", data)
  module = irregular.GruD(8, 0.0)
  read = jax.jit(jax.vmap(lambda params, x: module.apply({"params": params}, x, None), (None, 0)))
  values = np.random.default_rng(0).normal(size=(8, L, V)).astype(np.float32)
  return params["encode_a"], lambda params, x: np.asarray(read(params, x)), values


def test_it_is_a_gru_of_values_and_masks_where_everything_is_measured(gru_d):
  """Cho's, which resets the state before its product, and in which z lets the candidate in."""
  params, read, values = gru_d
  params = params | {"decay": params["decay"] | {"bias": np.zeros(8, np.float32)}}
  sigmoid, h = lambda x: 1 / (1 + np.exp(-x)), np.zeros((8, 8))
  for x in values.swapaxes(0, 1):
    told = np.concatenate([x, np.ones_like(x)], 1) @ params["inputs"]["kernel"] + (
        params["inputs"]["bias"])
    z, r = np.split(sigmoid(told[:, :16] + h @ params["cell"]["gates"]["kernel"]), 2, 1)
    h = (1 - z) * h + z * np.tanh(told[:, 16:] + (r * h) @ params["cell"]["candidate"]["kernel"])
  np.testing.assert_allclose(read(params, series(values, np.ones_like(values), 0.5)), h, atol=1e-5)


def test_what_is_long_past_is_forgotten(gru_d):
  """A value falls to the mean, and all that the state holds to zero, as if there had been nothing
  before; a short time ago it is not so."""
  params, read, values = gru_d
  params = params | {"input_rate": np.abs(params["input_rate"]), "decay": params["decay"] | {
      "kernel": np.abs(params["decay"]["kernel"])}}
  first = np.zeros_like(values)
  first[:, 0] = 1
  nothing = read(params, series(values, 0 * first, 0.0, np.arange(L) < 1))
  after = lambda hours: read(params, series(values, first, [0.0, hours, 0, 0], np.arange(L) < 2))
  np.testing.assert_allclose(after(1e6), nothing, atol=1e-6)
  assert np.abs(after(0.1) - nothing).max(1).min() > 1e-2


def test_what_was_not_measured_enters_nowhere(gru_d):
  params, read, values = gru_d
  masks = np.random.default_rng(1).random(values.shape) < 0.5
  hours, valid = np.linspace(0, 1, L), np.arange(L) < 3
  x = series(values, masks, hours, valid)
  other = np.where(masks, values, 1e3)
  np.testing.assert_array_equal(read(params, series(other, masks, hours, valid)), read(params, x))
  beyond = x.copy()
  beyond[:, 3:, 1:] = 5.0
  np.testing.assert_array_equal(read(params, beyond), read(params, x))
  # whether it was measured does
  assert np.abs(read(params, series(values * masks, 0 * masks, hours, valid)) -
                read(params, x)).max() > 1e-2


def test_the_latest_value_and_the_time_since():
  rng = np.random.default_rng(0)
  time, values = np.sort(rng.random(6)), rng.normal(size=(6, 3))
  measured = rng.random((6, 3)) < 0.5
  last, since = np.zeros((6, 3)), np.zeros((6, 3))
  for v in range(3):
    value, at = 0.0, time[0]
    for i in range(6):
      last[i, v], since[i, v] = value, time[i] - at
      if measured[i, v]:
        value, at = values[i, v], time[i]
  for a, b in zip(irregular.latest(*map(jnp.asarray, (time, values, measured))), (last, since)):
    np.testing.assert_allclose(a, b, atol=1e-6)


def test_the_other_modalities_join_late(data):
  """With their tokens and the pattern, behind what the series says."""
  model, params, _ = built("gru_d", data)
  h = jax.jit(lambda batch: model.apply(params, batch, False, None).representation)
  batch = batch_of(data, np.arange(8))
  whole, without = (np.asarray(h(seen(batch, 1, *rest))) for rest in ((1, 1), (0, 1)))
  assert whole.shape == (8, 8 + 8 + 8 + 3)
  np.testing.assert_array_equal(whole[:, :8], without[:, :8])
  assert (without[:, 8:16] == 0).all() and (whole[:, 8:16] != 0).any()
  np.testing.assert_array_equal(without[:, -3:], np.tile([1, 0, 1], (8, 1)))
