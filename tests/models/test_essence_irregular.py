"""What makes the models of irregular series the methods that they are."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from crl_jax.models import irregular, settings
from crl_jax.models.parts import losses
from crl_jax.models.record import Outputs
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


def flow_of(**own):
  """(drawn parameters, (params, rows of series) -> (what variables know, edges)) of three
  variables."""
  data = make_data()
  data["inputs"]["a"] = np.zeros((160, L, 8), np.float32)
  _, params, config = built("raindrop", data, **own)
  flow = irregular.Flow(settings.chosen(config))
  read = jax.jit(jax.vmap(lambda params, x: flow.apply({"params": params}, x, None), (None, 0)))
  params = {name: x if isinstance(x, dict) else 3 * x
            for name, x in params["encode_a"]["flow"].items()}   # as large as they begin
  return params, lambda *args: tuple(map(np.asarray, read(*args)))


@pytest.fixture(scope="module")
def raindrop():
  """flow_of() as it is, and of one round after which all edges stay; values, masks and hours of
  eight rows."""
  rng = np.random.default_rng(0)
  values = rng.normal(size=(8, L, 3)).astype(np.float32)
  masks = (rng.random(values.shape) < 0.6) | (np.arange(L) == 0)[:, None]
  return flow_of(), flow_of(rounds=1, keep=1.0), (values, masks, np.linspace(0, 1, L))


def test_variables_hear_of_each_other(raindrop):
  (params, flow), (first, once), (values, masks, hours) = raindrop
  other = values + 2.0 * (np.arange(3) == 0)
  for params, read in ((params, flow), (first, once)):
    known, moved = (read(params, series(x, masks, hours))[0] for x in (values, other))
    assert (np.abs(known - moved)[:, 1:].max((1, 2)) > 1e-3).sum() > 4


def test_what_no_variable_measured_is_told_to_none(raindrop):
  (params, flow), _, (values, masks, hours) = raindrop
  found = flow(params, series(values, masks, hours))
  for a, b in zip(flow(params, series(np.where(masks, values, np.nan), masks, hours)), found):
    np.testing.assert_array_equal(a, b)
  valid = np.arange(L) < 3
  x = series(values * valid[:, None], masks & valid[:, None], hours, valid)
  other = x.copy()
  other[:, 3, 1:5] = 1e3
  np.testing.assert_allclose(flow(params, other)[0], flow(params, x)[0], atol=1e-6)


def test_an_edge_weighs_what_went_along_it_on_average(raindrop):
  _, (params, flow), (values, masks, hours) = raindrop
  angle = np.pi * hours[:, None] * 2.0 ** np.arange(8)
  p = np.concatenate([np.sin(angle), np.cos(angle)], 1)
  h = np.maximum(values[..., None] * params["observation"], 0)
  asks = h @ params["attend_0"]["kernel"]
  z = asks[..., :16] @ params["sensor"].T + (asks[..., 16:] * p[:, None]).sum(-1, keepdims=True)
  weights = masks[..., None] / (1 + np.exp(-z))
  expected = weights.sum(1) / masks.sum(1)[..., None]
  np.testing.assert_allclose(flow(params, series(values, masks, hours))[1], expected, atol=1e-5)


def test_half_of_the_edges_stay(raindrop):
  (params, flow), _, (values, masks, hours) = raindrop
  assert ((flow(params, series(values, masks, hours))[1] > 0).sum((1, 2)) == 9 // 2).all()
  edges = jnp.array([[0.1, 0.5, 0.3], [0.2, 0.9, 0.4], [0.0, 0.6, 0.7]])
  np.testing.assert_array_equal(irregular.strongest(edges, 4), np.where(edges > 0.45, edges, 0))
  assert (irregular.strongest(jnp.ones((3, 3)), 4) == 1).sum() == 4


def test_messages_are_made_some_steps_at_a_time(raindrop, monkeypatch):
  (params, flow), _, (values, masks, hours) = raindrop
  x = series(values, masks, hours)
  at_once = flow(params, x)
  monkeypatch.setattr(irregular, "_STEPS", 3)
  for a, b in zip(flow_of()[1](params, x), at_once):
    np.testing.assert_allclose(a, b, atol=1e-5)


def test_edges_that_differ_between_rows_cost(data):
  """Half the mean square between two rows that have the series."""
  model, _, _ = built("raindrop", data)
  batch = batch_of(data, np.arange(8)).replace(valid=np.arange(8) < 6)
  edges = np.random.default_rng(0).normal(size=(8, V, V)).astype(np.float32)
  found = model.loss(Outputs(np.zeros((8, 2)), None, dict(edges_a=edges)), batch)["similar"]
  there = edges[batch.observed[:, 0] & batch.valid]
  expected = np.square(there[:, None] - there).mean() / 2
  assert 1 < len(there) < 6 and losses.reduce(*found) == pytest.approx(float(expected), rel=1e-5)
