"""Preprocessing of series against a loop over rows, steps and variables; of images, nothing."""

import numpy as np
import pytest

from crl_jax import config as config_lib
from crl_jax.data import preprocess
from crl_jax.data.cohort import Cohort, CohortError

N, L, V = 40, 6, 3


@pytest.fixture
def settings():
  return config_lib.default().unlock().preprocess


@pytest.fixture
def raw():
  """(x (N, L, 1 + V), observed (N, 1)): variable 1 is rare, 2 constant; some rows hold nothing."""
  rng = np.random.default_rng(0)
  x = rng.normal(3, 2, (N, L, 1 + V)).astype(np.float32)
  x[..., 0] = np.sort(rng.uniform(0, 48, (N, L)), 1)
  x[..., 1:][rng.random((N, L, V)) < [0.3, 0.9, 0.5]] = np.nan
  x[..., 3] = np.where(np.isnan(x[..., 3]), np.nan, 7)
  for i, steps in enumerate(rng.integers(1, L + 1, N)):
    x[i, steps:] = np.nan
  x[3, 1, 1] = 1e4              # clipped
  x[5, :1, 1:] = np.nan          # a step where nothing was measured
  observed = rng.random((N, 1)) < 0.8
  observed[[3, 5]] = True
  x[~observed[:, 0]] = 0
  return x, observed


def oracle(x, present, train, settings):
  """(N, L, 2 + 2V) and hours, by loops."""
  here = [i for i in train if present[i]]
  hours = np.quantile([np.nanmax(x[i, :, 0]) for i in here], 0.95)
  out = np.zeros((len(x), L, 2 + 2 * V))
  for v in range(V):
    of = [[x[i, l, 1 + v] for l in range(L) if not np.isnan(x[i, l, [0, 1 + v]]).any()]
          for i in here]
    values = np.concatenate(of).astype(np.float64)
    center, spread, fill = values.mean(), values.std(), np.median(values)
    keep = spread > 1e-5 and np.mean([len(one) == 0 for one in of]) <= settings.max_missing
    scale = lambda value: keep * np.clip(
        (value - center) / (spread if keep else 1), -settings.clip, settings.clip)
    for i in range(len(x)):
      held = scale(fill) if settings.series_fill == "last" else 0
      for l in range(L):
        if not present[i] or np.isnan(x[i, l, 0]):
          continue
        seen = not np.isnan(x[i, l, 1 + v])
        if settings.series_fill == "last":
          held = scale(x[i, l, 1 + v]) if seen else held
        else:
          held = scale(x[i, l, 1 + v]) if seen else 0
        out[i, l, :2] = 1, x[i, l, 0] / hours
        out[i, l, 2 + v], out[i, l, 2 + V + v] = held, seen * keep
  return out


@pytest.mark.parametrize("fill", ["last", "none"])
@pytest.mark.parametrize("max_missing", [0.95, 0.5])
def test_a_series_is_what_the_loop_makes_of_it(raw, settings, fill, max_missing):
  x, observed = raw
  settings.series_fill, settings.max_missing = fill, max_missing
  train = np.arange(30)
  stats = preprocess.fit({"s": x}, observed, ("s",), train, settings, {"s": "series"})
  assert preprocess.widths(stats) == {"s": 2 + 2 * V}
  found = preprocess.transform(stats, {"s": x}, observed, ("s",), chunk=16)["s"]
  expected = oracle(x, observed[:, 0], train, settings)
  np.testing.assert_allclose(found, expected, atol=2e-5)
  assert found.dtype == np.float32 and found[3, 1, 2] == settings.clip
  assert (found[..., 3].any() and found[..., 6].any()) == (max_missing == 0.95)
  assert not found[..., [4, 7]].any()   # a constant says nothing


def test_test_rows_and_absent_rows_move_nothing(raw, settings):
  x, observed = raw
  one, other = ({"s": x.copy()} for _ in range(2))
  other["s"][30:, :, 1:] *= 1000
  other["s"][:30][~observed[:30, 0]] = 1e6
  a, b = (preprocess.fit(inputs, observed, ("s",), np.arange(30), settings, {"s": "series"})["s"]
          for inputs in (one, other))
  for key in a:
    np.testing.assert_array_equal(a[key], b[key])


def test_what_does_not_exist_changes_nothing(raw, settings):
  x, observed = raw
  stats = preprocess.fit({"s": x}, observed, ("s",), np.arange(30), settings, {"s": "series"})
  more = x.copy()
  more[np.isnan(x[..., 0]), 1:] = 1e30
  more[~observed[:, 0]] = np.nan
  for rows in (x, more):
    found = preprocess.transform(stats, {"s": rows}, observed, ("s",))["s"]
    np.testing.assert_array_equal(
        found, preprocess.transform(stats, {"s": x}, observed, ("s",))["s"])


def test_the_quantile_scale_is_that_of_what_was_measured(raw, settings):
  x, observed = raw
  settings.scale, settings.quantiles = "quantile", 8
  stats = preprocess.fit({"s": x}, observed, ("s",), np.arange(N), settings, {"s": "series"})["s"]
  own = x[observed[:, 0]][..., 1]
  flat = preprocess.fit({"v": own[~np.isnan(own)][:, None]}, np.ones(((~np.isnan(own)).sum(), 1),
                        bool), ("v",), np.arange((~np.isnan(own)).sum()), settings)["v"]
  for key in ("knots", "center", "spread"):
    np.testing.assert_allclose(stats[key][..., 0], flat[key][..., 0], rtol=1e-6)


def test_a_series_that_training_never_saw(raw, settings):
  x, observed = raw
  observed[:30] = False
  stats = preprocess.fit({"s": x}, observed, ("s",), np.arange(30), settings, {"s": "series"})
  found = preprocess.transform(stats, {"s": x}, observed, ("s",))["s"]
  assert np.isfinite(found).all() and not found[..., 2:].any() and found[30:, 0, 0].any()


def cohort_of(x, observed, **info):
  n = np.arange(len(x))
  return Cohort(("s",), ("y",), {"s": x}, observed, np.zeros((len(x), 1), np.float32), n, n, {},
                {"s": ["hours", "a", "b", "c"]}, info=info, kinds={"s": "series"})


def test_before_the_first_measurement_stands_the_median_or_the_normal_value(raw, settings):
  x, observed = raw
  median = preprocess.fit(rows=np.arange(30), **preprocess.of_cohort(
      cohort_of(x, observed), settings))["s"]
  settings.before = "normal"
  with pytest.raises(CohortError, match="no values of the series 's': bring them, or choose"):
    preprocess.of_cohort(cohort_of(x, observed), settings)
  cohort = cohort_of(x, observed, normal={"s": {"a": 4.5}})
  normal = preprocess.fit(rows=np.arange(30), **preprocess.of_cohort(cohort, settings))["s"]
  assert normal["fill"][0] == 4.5 and (normal["fill"][1:] == median["fill"][1:]).all()
  assert (normal["center"] == median["center"]).all()
  first = preprocess.transform({"s": normal}, {"s": x}, observed, ("s",))["s"][5, 0, 2]
  assert first == pytest.approx((4.5 - normal["center"][0]) / normal["spread"][0], rel=1e-5)


def test_a_sequences_steps_are_told_by_a_channel_of_their_own(settings):
  x = np.random.default_rng(0).normal(size=(20, 4, 2)).astype(np.float32)
  x[:, 3] = np.nan
  x[0, 1] = x[:, :3].reshape(-1, 2).mean(0)    # the mean patient
  observed = np.ones((20, 1), bool)
  observed[7] = False
  stats = preprocess.fit({"q": x}, observed, ("q",), np.arange(20), settings, {"q": "sequence"})
  old = preprocess.fit({"q": x}, observed, ("q",), np.arange(20), settings)
  found, before = (preprocess.transform(s, {"q": x}, observed, ("q",))["q"] for s in (stats, old))
  assert preprocess.widths(stats) == {"q": 3} and preprocess.widths(old) == {"q": 2}
  np.testing.assert_array_equal(found[..., :2], before)
  assert (found[..., 2] == ((np.arange(4) < 3) & observed)).all()


def test_pixels_are_left_alone(settings):
  x = np.random.default_rng(0).integers(0, 256, (9, 4, 4, 2)).astype(np.uint8)
  observed = np.arange(9)[:, None] % 3 > 0
  stats = preprocess.fit({"x": x}, observed, ("x",), np.arange(6), settings, {"x": "image"})
  assert preprocess.widths(stats) == {"x": 2} and not preprocess.depends_on_fold(x)
  found = preprocess.transform(stats, {"x": x}, observed, ("x",))["x"]
  assert found.dtype == np.uint8
  np.testing.assert_array_equal(found, np.where(observed[..., None, None], x, 0))
  assert preprocess.out_of_range(stats, {"x": x}, observed, ("x",), {"x": ["a", "b"]}) == []


def test_other_units_of_a_series_are_noticed_and_times_are_not(raw, settings):
  x, observed = raw
  stats = preprocess.fit({"s": x}, observed, ("s",), np.arange(N), settings, {"s": "series"})
  names = {"s": ["hours", "a", "b", "c"]}
  assert preprocess.out_of_range(stats, {"s": x}, observed, ("s",), names) == []
  x = x * np.array([1000, 1, -100, 1], np.float32)
  assert [f[:2] for f in preprocess.out_of_range(stats, {"s": x}, observed, ("s",), names)] == [
      ("s", "b")]
