"""Series and images as tables, against loops; what the yardsticks and the tests of missingness see
of them."""

import numpy as np
import pytest

from crl_jax.data import preprocess, summaries
from crl_jax import config as config_lib
from crl_jax.data.cohort import Cohort
from crl_jax.engine import yardsticks
from crl_jax.statistics import informative

N, L, V = 60, 6, 2


@pytest.fixture(scope="module")
def cohort():
  rng = np.random.default_rng(0)
  x = rng.normal(size=(N, L, 1 + V)).astype(np.float32)
  x[..., 0] = np.sort(rng.uniform(0, 48, (N, L)), 1)
  x[..., 1:][rng.random((N, L, V)) < 0.4] = np.nan
  for i, steps in enumerate(rng.integers(1, L + 1, N)):
    x[i, steps:, 0] = np.nan   # what is behind the last step is nothing
  image = rng.integers(0, 256, (N, 16, 10, 2)).astype(np.uint8)
  observed = rng.random((N, 2)) < 0.7
  index = np.arange(N)
  return Cohort(("s", "x"), ("y",), {"s": x, "x": image}, observed, np.zeros((N, 1), np.float32),
                index, index, {}, {"s": ["hours", "a", "b"], "x": ["r", "g"]},
                kinds={"s": "series"})


def oracle(time, value):
  """(6V,) of one row, a loop over variables."""
  out = np.full((6, V), np.nan)
  for v in range(V):
    seen = ~np.isnan(time) & ~np.isnan(value[:, v])
    t, y = time[seen].astype(float), value[seen, v].astype(float)
    out[5, v] = np.log1p(len(y))
    if len(y):
      slope = np.polyfit(t, y, 1)[0] if len(y) > 1 else 0
      out[:5, v] = y[-1], y.mean(), y.min(), y.max(), slope
  return out.ravel()


def test_a_series_is_what_its_variables_did(cohort):
  rows = np.flatnonzero(cohort.observed[:, 0])
  found = cohort.summary("s", rows)
  expected = np.stack([oracle(x[:, 0], x[:, 1:]) for x in cohort.inputs["s"][rows]])
  np.testing.assert_allclose(found, expected, rtol=2e-3, atol=1e-4)
  assert np.isnan(found).any() and found.shape == (len(rows), 6 * V)


@pytest.mark.parametrize("side, cells", [((16, 16), 64), ((20, 12), 64), ((5, 9), 40)])
def test_an_image_is_the_means_of_a_grid(side, cells):
  x = np.random.default_rng(0).integers(0, 256, (3, *side, 2)).astype(np.uint8)
  found = summaries.of_image(x)
  assert found.shape == (3, cells * 2)
  rows, columns = (np.linspace(0, n, min(8, n) + 1).astype(int) for n in side)
  first, last = x[:, :rows[1], :columns[1]], x[:, rows[-2]:, columns[-2]:]
  np.testing.assert_allclose(found[:, :2], first.mean((1, 2)) / 255, rtol=1e-5)
  np.testing.assert_allclose(found[:, -2:], last.mean((1, 2)) / 255, rtol=1e-5)


def test_the_yardsticks_see_summaries_of_scaled_values(cohort):
  settings = config_lib.default().preprocess
  stats = preprocess.fit(rows=np.arange(40), **preprocess.of_cohort(cohort, settings))
  scaled = preprocess.transform(stats, cohort.inputs, cohort.observed, cohort.modalities)
  kinds = {m: cohort.kind(m) for m in cohort.modalities}
  x = yardsticks.design_matrix(scaled, cohort.observed, cohort.modalities, kinds)
  assert x.shape == (N, 6 * V + 8 * 8 * 2 + 2) and np.isfinite(x).all()
  raw, s = cohort.summary("s", np.arange(N)), stats["s"]
  for v in range(V):
    known = cohort.observed[:, 0] & ~np.isnan(raw[:, v])
    np.testing.assert_allclose(   # the last value
        x[known, v], (raw[known, v] - s["center"][v]) / s["spread"][v], atol=1e-4)
    np.testing.assert_allclose(   # the slope, of scaled time and values
        x[known, 4 * V + v], raw[known, 4 * V + v] * s["hours"] / s["spread"][v], atol=2e-3)
  assert not x[~cohort.observed[:, 0], :6 * V].any()


def test_a_series_keeps_its_kind_on_the_yardsticks_own_scale(cohort):
  settings = config_lib.default().preprocess
  stats = preprocess.fit(rows=np.arange(40), **preprocess.of_cohort(cohort, settings))
  own = yardsticks.own_scale(cohort, stats, np.arange(40), settings)
  assert len(own["s"]["knots"]) == settings.quantiles and "hours" in own["s"]
  assert own["x"] is stats["x"]


def test_tests_of_missingness_look_at_summaries(cohort):
  for m, width in (("s", 3), ("x", 5)):
    z = informative.components(cohort, m, width)
    present = cohort.observed[:, cohort.modalities.index(m)]
    assert z.shape == (N, width) and not z[~present].any()
    np.testing.assert_allclose(z[present].std(0), 1, atol=1e-6)
