"""Preprocessing moves with training rows alone and is finite and zero where it must be."""

import numpy as np
import pytest
from scipy import special

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


def test_ties_of_the_quantile_scale_take_the_middle_of_their_range(settings):
  if settings.scale == "standard":
    pytest.skip("a property of the quantile scale alone")
  half = np.tile([0, 1], 200)                # ranks 0 to 1/2 and 1/2 to 1
  three = np.tile([0, 1, 1, 2], 100)
  inputs, observed = {"a": np.stack([half, three], 1).astype(np.float32)}, np.ones((400, 1), bool)
  stats = preprocess.fit(inputs, observed, ("a",), np.arange(400), settings)
  normal = preprocess._fitted_normal(stats["a"]["knots"], inputs["a"])
  np.testing.assert_allclose(normal[:, 0], special.ndtri([1 / 4, 3 / 4])[half], atol=0.03)
  np.testing.assert_allclose(normal[:, 1], special.ndtri([1 / 8, 1 / 2, 7 / 8])[three], atol=0.03)
  out = preprocess.transform(stats, inputs, observed, ("a",))["a"]
  np.testing.assert_allclose(out[:2, 0], [-1, 1], atol=1e-3)
  np.testing.assert_allclose(out[:4, 1], np.sqrt(2) * np.array([-1, 0, 0, 1]), atol=0.02)


def test_components_keep_the_ratio_of_their_standard_deviations(settings):
  """They are not whitened one by one, but all scaled alike to a mean variance of 1."""
  rng = np.random.default_rng(0)
  x = (rng.normal(size=(400, 6)) @ rng.normal(size=(6, 6))).astype(np.float32)
  observed, settings.components = np.ones((400, 1), bool), 3
  stats = preprocess.fit({"a": x}, observed, ("a",), np.arange(400), settings)
  z = np.asarray(preprocess._scaled(stats["a"], x))
  expected = np.sqrt(np.linalg.eigvalsh(z.T @ z / 400)[:2:-1])
  assert expected[0] > 1.2 * expected[1] > 1.2**2 * expected[2]
  found = preprocess.transform(stats, {"a": x}, observed, ("a",))["a"].std(0)
  np.testing.assert_allclose(found / found[0], expected / expected[0], rtol=1e-3)
  assert np.mean(found**2) == pytest.approx(1, rel=1e-3)


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


def test_padding_of_sets_counts_in_nothing_and_is_delivered_as_zeros(settings):
  rng = np.random.default_rng(0)
  flat, observed = rng.normal(5, 2, (200, 3)).astype(np.float32), np.ones((200, 1), bool)
  flat[::7, 1] = np.nan                            # missing, in a thing that is there
  x = np.full((200, 4, 3), np.nan, np.float32)
  x[:, 0], x[50:, 2] = flat, flat[50:]             # two places are filled, or one
  settings.components = 2
  stats = preprocess.fit({"a": x}, observed, ("a",), np.arange(200), settings)
  alone = preprocess.fit({"a": np.concatenate([flat, flat[50:]])}, np.ones((350, 1), bool), ("a",),
                         np.arange(350), settings)
  for key in stats["a"]:
    np.testing.assert_allclose(stats["a"][key], alone["a"][key], atol=1e-5)
  observed[:10] = False
  found = preprocess.transform(stats, {"a": x}, observed, ("a",))["a"]
  assert found.shape == (200, 4, 2 + 3) and (found[:10] == 0).all()
  assert (found[:, [1, 3]] == 0).all() and (found[:50, 2] == 0).all()
  np.testing.assert_array_equal(found[50:, 2], found[50:, 0])
  assert (found[10:, 0] != 0).any(-1).all()


def test_token_ids_are_left_alone(settings):
  rng = np.random.default_rng(0)
  ids = rng.integers(0, 90, (20, 2, 8)).astype(np.int32)
  observed = rng.random((20, 1)) < 0.7
  settings.components = 2
  stats = preprocess.fit({"note": ids}, observed, ("note",), np.arange(15), settings)
  assert preprocess.widths(stats) == {"note": 8}
  found = preprocess.transform(stats, {"note": ids}, observed, ("note",), chunk=6)["note"]
  assert found.dtype == np.int32
  np.testing.assert_array_equal(found, np.where(observed[:, 0, None, None], ids, 0))
  assert preprocess.out_of_range(stats, {"note": ids * 100}, observed, ("note",),
                                 {"note": "abcdefgh"}) == []


def test_no_knot_is_one_patients_value():
  """Knots leave with an exported model: each is the mean of ten training values."""
  settings = config_lib.default().unlock().preprocess
  settings.scale, settings.quantiles = "quantile", 16
  x = np.random.default_rng(0).normal(size=(300, 2)).astype(np.float32)
  x[::29, 0] = 54321.125 + np.arange(len(x[::29]))
  knots = preprocess.fit({"a": x}, np.ones((300, 1), bool), ("a",), np.arange(300),
                         settings)["a"]["knots"]
  assert not np.isin(knots, x).any() and (np.diff(knots, axis=0) >= 0).all()
  last = np.sort(x, 0)[-10:].mean(0, dtype=np.float64)
  np.testing.assert_allclose(knots[-1], last, rtol=1e-6)
  few = preprocess.fit({"a": x[:5]}, np.ones((5, 1), bool), ("a",), np.arange(5), settings)["a"]
  np.testing.assert_allclose(few["knots"], np.repeat(x[:5].mean(0)[None], 16, 0), rtol=1e-5)
