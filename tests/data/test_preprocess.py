"""Preprocessing moves with training rows alone and is finite and zero where it must be."""

import numpy as np
import pytest

from crl_jax import config as config_lib
from crl_jax.data import preprocess

NAMES = ("a", "b")


@pytest.fixture(params=["standard", "quantile"])
def settings(request):
  c = config_lib.default().unlock()
  c.preprocess.scale = request.param
  return c.preprocess


@pytest.fixture
def raw():
  rng = np.random.default_rng(0)
  observed = rng.random((400, 2)) < 0.7
  a = rng.lognormal(size=(400, 4)).astype(np.float32)
  a[rng.random(a.shape) < 0.2] = np.nan
  a[:, 2] = 7.0                                   # constant
  a[:, 3] = np.where(np.arange(400) % 50, np.nan, a[:, 3])   # almost never there
  return {"a": a, "b": rng.normal(size=(400, 3)).astype(np.float32)}, observed


def test_test_rows_do_not_move_it_and_training_rows_do(raw, settings):
  inputs, observed = raw
  rows = np.arange(300)
  one = preprocess.fit(inputs, observed, NAMES, rows, settings)
  inputs["a"][300:] *= 1000
  # unobserved content of training rows counts no more
  inputs["a"][:300][~observed[:300, 0]] = 1e6
  same = preprocess.fit(inputs, observed, NAMES, rows, settings)
  for m in NAMES:
    for key in one[m]:
      np.testing.assert_array_equal(one[m][key], same[m][key])
  inputs["a"][:300] += 1
  assert (preprocess.fit(inputs, observed, NAMES, rows, settings)["a"]["fill"][0] !=
          one["a"]["fill"][0])


def test_output_is_scaled_finite_and_zero_where_unobserved(raw, settings):
  inputs, observed = raw
  stats = preprocess.fit(inputs, observed, NAMES, np.arange(400), settings)
  out = preprocess.transform(stats, inputs, observed, NAMES, chunk=150)
  # indicators where a feature is ever missing
  assert out["a"].shape == (400, 8) and out["b"].shape == (400, 3)
  for i, m in enumerate(NAMES):
    assert np.isfinite(out[m]).all() and (out[m][~observed[:, i]] == 0).all()
  seen = out["b"][observed[:, 1]]
  assert (seen.mean(0) == pytest.approx(np.zeros(3), abs=0.02) and
          seen.std(0) == pytest.approx(np.ones(3), abs=0.02))
  assert (out["a"][:, 2] == 0).all() and (out["a"][:, 3] == 0).all()   # constant; missing in 98%
  gaps = np.isnan(inputs["a"][:, 0]) & observed[:, 0]
  assert (out["a"][gaps, 4] == 1).all() and out["a"][~gaps, 4].sum() == 0
  assert np.abs(out["a"]).max() <= settings.clip


def test_quantile_scale_ignores_monotone_changes_of_a_feature(raw, settings):
  if settings.scale == "standard":
    pytest.skip("a property of the quantile scale alone")
  inputs, observed = raw
  out = lambda x: preprocess.transform(preprocess.fit(x, observed, NAMES, np.arange(300), settings),
                                       x, observed, NAMES)
  log = {**inputs, "a": np.log(inputs["a"])}
  np.testing.assert_allclose(out(inputs)["a"][:, 0], out(log)["a"][:, 0], atol=0.15)


def test_a_modality_that_training_never_saw(raw, settings):
  inputs, observed = raw
  observed[:300, 1] = False
  stats = preprocess.fit(inputs, observed, NAMES, np.arange(300), settings)
  assert (preprocess.transform(stats, inputs, observed, NAMES)["b"] == 0).all()


def test_other_units_are_noticed(raw, settings):
  inputs, observed = raw
  stats = preprocess.fit(inputs, observed, NAMES, np.arange(300), settings)
  features = {"a": list("wxyz"), "b": list("uvt")}
  assert preprocess.out_of_range(stats, inputs, observed, NAMES, features) == []
  inputs["b"] = inputs["b"] * np.array([1, 100, 1], np.float32)
  assert [f[:2] for f in preprocess.out_of_range(stats, inputs, observed, NAMES, features)] == [
      ("b", "v")]
