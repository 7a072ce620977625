"""The rectifier against oracles in plain Python, the appendix of the paper, and the honesty it must
keep."""

import dataclasses
import json

import numpy as np
import pytest
from scipy import stats

from crl_jax import config as config_lib
from crl_jax.data import cohort as cohort_lib
from crl_jax.posthoc import rectifier as rectifier_lib, residuals, segments

MODALITIES = ("structured", "image", "text", "reports")


def _config(**overrides):
  c = config_lib.default().rectifier
  c.update(overrides)
  return c


def _world(n=2000, tasks=2, patterns=4, scale=0.08, seed=0, rows_per_patient=1, undefined=0.1):
  """y, f, pattern, patient of a base model that ignores the pattern, and the true gamma (tasks,
  patterns)."""
  rng = np.random.default_rng(seed)
  gamma = rng.uniform(-scale, scale, (tasks, patterns))
  pattern = rng.integers(0, patterns, n)
  f = rng.uniform(0.1, 0.6, (n, tasks))
  y = (rng.random((n, tasks)) < f + gamma.T[pattern]).astype(float)
  y[rng.random((n, tasks)) < undefined] = np.nan
  return (y, f, pattern * 2 + 1, rng.permutation(n) // rows_per_patient), gamma


def _folds(patient, k, seed):
  """Fold of each row, by way of what cross-fitting must have used: rows whose correction ignores
  the fold's labels."""
  patients = np.unique(patient)
  start = np.random.default_rng([2, seed]).integers(k, size=-(-len(patients) // k))
  fold = (np.arange(len(patients)) + np.repeat(start, k)[:len(patients)]) % k
  return fold[np.searchsorted(patients, patient)]


def test_appendix_example():
  """Pattern 'no text', readmission: an estimate of +0.08 above its threshold takes 0.30 to 0.38."""
  n = 1000
  y = (np.arange(n) < 380).astype(float)[:, None]
  r = rectifier_lib.fit(y, np.full((n, 1), 0.30), np.full(n, 3), np.arange(n),
                        _config(thresholds=(0.05,)), 0)
  assert r.threshold[0] == 0.05 and r.gamma[0, 0] == pytest.approx(0.08)
  assert rectifier_lib.apply(r, [[0.30]], [3])[0, 0] == pytest.approx(0.38)
  above = dataclasses.replace(r, threshold=np.array([0.09]))
  assert rectifier_lib.apply(above, [[0.30]], [3])[0, 0] == 0.30


def test_probability_scale_equals_plain_python():
  (y, f, pattern, patient), _ = _world(n=300, rows_per_patient=2, scale=0.1, seed=3)
  c = _config(shrinkage=False, folds=3, thresholds=(0.0,))
  r = rectifier_lib.fit(y, f, pattern, patient, c, 8)
  rectified = rectifier_lib.cross_fitted(y, f, pattern, patient, c, 8)
  fold = _folds(patient, 3, 8)
  for t in range(2):
    for j, p in enumerate(r.patterns):
      cell = [i for i in range(300) if pattern[i] == p and not np.isnan(y[i, t])]
      assert r.n[t, j] == len(cell)
      assert r.gamma[t, j] == pytest.approx(sum(y[i, t] - f[i, t] for i in cell) / len(cell))
    for i in range(300):
      others = [j for j in range(300)
                if fold[j] != fold[i] and pattern[j] == pattern[i] and not np.isnan(y[j, t])]
      g = sum(y[j, t] - f[j, t] for j in others) / len(others)
      expected = min(max(f[i, t] + (g if r.threshold[t] == 0 else 0), 0), 1)
      assert rectified[i, t] == pytest.approx(expected)
  assert (r.threshold == 0).any()   # the oracle above has seen a correction


def test_standard_error_equals_plain_python():
  (y, f, pattern, patient), _ = _world(n=400, rows_per_patient=4)
  r = rectifier_lib.fit(y, f, pattern, patient, _config(), 0)
  for t in range(2):
    squares, clusters = [], []
    for j, p in enumerate(r.patterns):
      residuals = {}
      for i in range(400):
        if pattern[i] == p and not np.isnan(y[i, t]):
          residuals[patient[i]] = residuals.get(patient[i], 0) + y[i, t] - f[i, t] - r.gamma[t, j]
      clusters.append(len(residuals))
      squares.append(sum(v**2 for v in residuals.values()) * len(residuals) / r.n[t, j])
    task = max(sum(squares) / (sum(clusters) - len(clusters)),
               np.mean((f * (1 - f))[~np.isnan(y[:, t]), t]))
    for j in range(4):
      variance = (squares[j] + 4 * task) / (clusters[j] - 1 + 4)
      assert r.se[t, j] == pytest.approx(np.sqrt(variance / r.n[t, j]))
      # t of about 80
      assert r.hi[t, j] - r.gamma[t, j] == pytest.approx(r.se[t, j] * 1.985, rel=0.01)


def test_correction_must_gain_significantly():
  small = 0
  for seed in range(40):
    (y, f, pattern, patient), _ = _world(n=400, tasks=1, seed=seed, scale=0.1, undefined=0)
    c = _config(thresholds=(0.0,))
    rows = rectifier_lib.checked(y, f, pattern, patient, c, 0)
    held_out = rectifier_lib._held_out(rows, rectifier_lib.estimate(rows, c))
    gains = (f - y)**2 - (np.clip(f + held_out, 0, 1) - y)**2
    enough = gains.mean() > 1.645 * gains.std() / 20   # one-sided 5%
    small += gains.mean() > 0 and not enough
    assert rectifier_lib.fit(y, f, pattern, patient, c, 0).threshold[0] == (0 if enough else np.inf)
  assert 0 < small < 30


def test_logit_scale_solves_its_equation():
  (y, f, pattern, patient), _ = _world(n=4000)
  r = rectifier_lib.fit(y, f, pattern, patient,
                        _config(scale="logit", shrinkage=False, thresholds=(0.0,)), 0)
  p = rectifier_lib.apply(dataclasses.replace(r, threshold=np.zeros(2)), f, pattern)
  for t in range(2):
    for j, pid in enumerate(r.patterns):
      cell = (pattern == pid) & ~np.isnan(y[:, t])
      assert (y - p)[cell, t].sum() == pytest.approx(0.05 * r.gamma[t, j], abs=1e-6)
      assert r.se[t, j] == pytest.approx((p * (1 - p))[cell, t].sum()**-0.5, rel=1e-3)


@pytest.mark.parametrize("scale", ["probability", "logit"])
@pytest.mark.parametrize("shrinkage", [True, False])
def test_no_fold_sees_its_own_labels(scale, shrinkage):
  """Given the threshold, labels of a fold change no correction of that fold, to the bit, and do
  change others."""
  (y, f, pattern, patient), _ = _world(n=600, rows_per_patient=3)
  c = _config(scale=scale, shrinkage=shrinkage, thresholds=(0.0,))
  own = _folds(patient, c.folds, 3) == 1
  other = np.where(own[:, None], 1 - y, y)   # flipped in the fold, NaN stays
  rows = [rectifier_lib.checked(v, f, pattern, patient, c, 3) for v in (y, other)]
  a, b = (rectifier_lib._corrected(f, rectifier_lib._held_out(r, rectifier_lib.estimate(r, c)),
                                   np.zeros(2), scale) for r in rows)
  np.testing.assert_array_equal(a[own], b[own])
  assert (a[~own] != b[~own]).all()


def test_a_cell_stops_by_itself(monkeypatch):
  """On the logit scale, how long other cells iterate leaves no trace."""
  monkeypatch.setattr(residuals, "_STILL", 0.1)
  (y, f, pattern, patient), _ = _world(n=400)
  c = _config(scale="logit")
  alone, beside = (rectifier_lib.fit(labels, f, pattern, patient, c, 0).gamma for labels in (
      y, np.where((pattern == 7)[:, None], 0, y)))   # one class: many steps
  np.testing.assert_array_equal(alone[:, :3], beside[:, :3])


def test_patient_stays_in_one_fold_whatever_the_order():
  (y, f, pattern, patient), _ = _world(n=600, rows_per_patient=3)
  c = _config()
  rows = rectifier_lib.checked(y, f, pattern, patient, c, 0)
  for who in np.unique(patient):
    assert len(set(rows.fold[patient == who])) == 1
  assert np.bincount(rows.fold, minlength=5).min() >= 0.9 * 600 / 5
  order = np.random.default_rng(1).permutation(600)
  corrected = rectifier_lib.cross_fitted(y, f, pattern, patient, c, 0)
  shuffled = rectifier_lib.cross_fitted(y[order], f[order], pattern[order], patient[order], c, 0)
  np.testing.assert_allclose(shuffled, corrected[order], rtol=1e-12)


@pytest.mark.parametrize("scale", ["probability", "logit"])
def test_ranking_within_a_pattern_is_kept(scale):
  (y, f, pattern, patient), _ = _world(scale=0.12)
  c = _config(scale=scale, thresholds=(0.0,))
  r = rectifier_lib.fit(y, f, pattern, patient, c, 1)
  assert np.isfinite(r.threshold).all()
  new = np.random.default_rng(1).random((500, 2))
  which = np.random.default_rng(2).choice(pattern, 500)
  out = rectifier_lib.apply(r, new, which)
  assert ((out >= 0) & (out <= 1)).all() and (out != new).any()
  for p in r.patterns:
    for t in range(2):
      order = np.argsort(new[which == p, t])
      assert (np.diff(out[which == p, t][order]) >= 0).all()


def test_unseen_pattern_gets_the_prior_mean():
  (y, f, pattern, patient), _ = _world(scale=0.0, undefined=0)
  f = f - 0.08   # every pattern is 0.08 too low
  r = rectifier_lib.fit(y, f, pattern, patient, _config(), 0)
  out = rectifier_lib.apply(r, np.full((2, 2), 0.3), [6, 2**61])
  np.testing.assert_allclose(out, 0.3 + np.tile(r.prior_mean, (2, 1)))
  np.testing.assert_allclose(r.prior_mean, 0.08, atol=3 * r.prior_se.max())
  assert (r.prior_se >= r.prior_sd).all()


@pytest.mark.parametrize("scale", ["probability", "logit"])
@pytest.mark.parametrize("shrinkage", [True, False])
def test_empty_one_row_and_one_class_cells(scale, shrinkage):
  rng = np.random.default_rng(0)
  pattern = np.repeat([1, 3, 5, 7], [300, 1, 40, 20])
  f = rng.uniform(0.05, 0.3, (len(pattern), 2))
  y = (rng.random(f.shape) < f).astype(float)
  y[pattern == 5] = 0                # one class
  y[pattern == 7, 1] = np.nan        # no label of the second task
  c = _config(scale=scale, shrinkage=shrinkage)
  r = rectifier_lib.fit(y, f, pattern, np.arange(len(y)), c, 0)
  assert r.n.tolist() == [[300, 1, 40, 20], [300, 1, 40, 0]]
  assert (np.isnan(r.gamma[1, 3]) and np.isnan(r.se[1, 3]) and
          r.gamma_shrunk[1, 3] == r.prior_mean[1])
  assert np.isfinite(r.table).all() and np.isfinite(r.gamma[r.n > 0]).all()
  # few rows, wide intervals
  assert (r.se[:, 1] > 3 * r.se[:, 0]).all() and (r.se[:, 2] > r.se[:, 0]).all()
  assert (r.lo < r.gamma)[r.n > 0].all() and (r.gamma < r.hi)[r.n > 0].all()
  out = rectifier_lib.cross_fitted(y, f, pattern, np.arange(len(y)), c, 0)
  assert np.isfinite(out).all() and (out >= 0).all() and (out <= 1).all()


@pytest.mark.parametrize("scale", ["probability", "logit"])
def test_nothing_to_learn_from_is_no_correction(scale):
  c = _config(scale=scale)
  f = np.random.default_rng(0).random((50, 2))
  y = np.full((50, 2), np.nan)
  for rows in (slice(0), slice(None)):
    n = len(f[rows])
    r = rectifier_lib.fit(y[rows], f[rows], np.ones(n), np.arange(n), c, 0)
    assert np.isinf(r.threshold).all() and (r.n == 0).all()
    np.testing.assert_array_equal(rectifier_lib.apply(r, f, np.arange(50)), f)
    np.testing.assert_array_equal(
        rectifier_lib.cross_fitted(y[rows], f[rows], np.ones(n), np.arange(n), c, 0), f[rows])
  # a single patient
  one = rectifier_lib.fit(np.ones((9, 2)), f[:9], np.ones(9), np.zeros(9), c, 0)
  assert np.isinf(one.threshold).all()


def test_one_perfect_or_one_class_task_keeps_an_interval():
  n = 60
  r = rectifier_lib.fit(np.zeros((n, 1)), np.full((n, 1), 0.1), np.ones(n), np.arange(n),
                        _config(), 0)
  assert 0.02 < r.se[0, 0] < 0.04   # about that of 2 events in 64, not the 0 of equal residuals
  y = (np.arange(n) % 2).astype(float)[:, None]
  perfect = rectifier_lib.fit(y, y, np.arange(n) % 3, np.arange(n), _config(), 0)
  assert np.isfinite(perfect.gamma_shrunk).all() and abs(perfect.gamma).max() == 0


def test_standard_error_counts_patients_not_rows():
  (y, f, pattern, patient), _ = _world(n=1000, undefined=0)
  twice = [np.concatenate([v, v]) for v in (y, f, pattern, patient)]
  once = rectifier_lib.fit(y, f, pattern, patient, _config(), 0)
  copied = rectifier_lib.fit(*twice, _config(), 0)
  np.testing.assert_allclose(copied.gamma, once.gamma)
  np.testing.assert_allclose(copied.se, once.se, rtol=0.02)
  apart = rectifier_lib.fit(*twice[:3], np.arange(2000), _config(), 0)
  np.testing.assert_allclose(apart.se, once.se / np.sqrt(2), rtol=0.02)
  on_logits = [rectifier_lib.fit(*v, _config(scale="logit"), 0).se
               for v in ((y, f, pattern, patient), twice)]
  np.testing.assert_allclose(on_logits[1], on_logits[0], rtol=0.05)


def test_shrinkage_limits():
  (y, f, pattern, patient), gamma = _world(n=200_000, undefined=0, seed=1)
  large = rectifier_lib.fit(y, f, pattern, patient, _config(), 0)
  np.testing.assert_allclose(large.gamma_shrunk, large.gamma, atol=0.002)
  (y, f, _, patient), _ = _world(n=4000, scale=0.0, undefined=0)
  equal = [rectifier_lib.fit(y, f, np.random.default_rng(s).integers(0, 4, 4000), patient,
                             _config(), 0) for s in range(8)]
  all_one = [r for r in equal if r.prior_sd[0] == 0]
  assert all_one   # chance patterns: more alike than expected in about half of the draws
  for r in all_one:
    np.testing.assert_allclose(r.gamma_shrunk[0], r.prior_mean[0], rtol=1e-12)
    assert r.prior_mean[0] == pytest.approx((y - f)[:, 0].mean(), abs=1e-3)


def test_json_round_trip_is_exact_and_readable():
  (y, f, pattern, patient), _ = _world(n=500)
  y[pattern == 7, 1] = np.nan
  r = rectifier_lib.fit(y, f, pattern, patient, _config(), 0)
  for r in (r, dataclasses.replace(r, threshold=np.array([np.inf, 0.02]))):
    entry = json.loads(json.dumps(rectifier_lib.to_dict(r, ("icu", "death"), MODALITIES),
                                  allow_nan=False))
    back = rectifier_lib.from_dict(entry, ("icu", "death"))
    for field in dataclasses.fields(r):
      np.testing.assert_array_equal(getattr(back, field.name), getattr(r, field.name), strict=True)
    np.testing.assert_array_equal(rectifier_lib.apply(back, f, pattern),
                                  rectifier_lib.apply(r, f, pattern))
  assert (entry["tasks"]["icu"]["threshold"] is None and
          entry["tasks"]["icu"]["cells"][1]["applied"] == 0)
  assert (entry["tasks"]["icu"]["cells"][1]["name"] == "structured+image" and
          entry["tasks"]["death"]["cells"][3]["n"] == 0)
  assert rectifier_lib.from_dict(entry, ("death", "icu")).threshold.tolist() == [0.02, np.inf]


def test_intervals_cover_the_truth():
  inside = []
  for seed in range(60):
    (y, f, pattern, patient), gamma = _world(n=800, seed=seed, patterns=6)
    r = rectifier_lib.fit(y, f, pattern, patient, _config(), 0)
    inside.append((r.lo <= gamma) & (gamma <= r.hi))
  assert 0.93 < np.mean(inside) < 0.98


def test_error_of_an_unseen_patterns_gamma_is_spread_and_error_of_the_mean():
  """DerSimonian and Laird's moments, cell by cell: prior_se^2 = tau^2 + 1 / sum 1 / (se^2 +
  tau^2)."""
  spread = []
  for seed in range(6):
    (y, f, pattern, patient), _ = _world(n=900, seed=seed, patterns=5, scale=(0, 0.1)[seed % 2])
    y[pattern == 3, 1] = np.nan                    # a cell without labels says nothing
    r = rectifier_lib.fit(y, f, pattern, patient, _config(), 0)
    for t in range(2):
      cells = [(r.gamma[t, j], r.se[t, j]**2) for j in range(5) if r.n[t, j]]
      assert len(cells) == 5 - t
      w = sum(1 / v for _, v in cells)
      mean = sum(g / v for g, v in cells) / w
      excess = sum((g - mean)**2 / v for g, v in cells) - (len(cells) - 1)
      tau2 = max(0, excess / (w - sum(1 / v**2 for _, v in cells) / w))
      w = sum(1 / (v + tau2) for _, v in cells)
      assert r.prior_mean[t] == pytest.approx(sum(g / (v + tau2) for g, v in cells) / w)
      assert r.prior_sd[t] == pytest.approx(np.sqrt(tau2))
      assert r.prior_se[t] == pytest.approx(np.sqrt(tau2 + 1 / w))
      spread.append(tau2 > 0)
  assert True in spread and False in spread


@pytest.mark.parametrize("patterns, rows, sd, most", [
    (5, 2500, 0.1, 0.96), (10, 2000, 0.1, 0.96), (10, 2000, 0, 0.995)])
def test_the_interval_of_an_unseen_pattern_covers_its_gamma(patterns, rows, sd, most):
  """prior_mean -+ t prior_se, t with the freedom of a spread over so many patterns; each of 1000
  tasks is a world of its own."""
  rng, tasks = np.random.default_rng(0), 1000
  gamma, pattern = rng.normal(0, sd, (tasks, patterns)), np.arange(rows) % patterns
  f = rng.uniform(0.35, 0.65, (rows, 1))
  y = rng.random((rows, tasks)) < f + gamma.T[pattern]
  r = rectifier_lib.fit(y, np.broadcast_to(f, y.shape), pattern, np.arange(rows),
                        _config(folds=2, thresholds=(0.0,)), 0)
  half = stats.t.ppf(0.975, patterns - 1) * r.prior_se
  # the share of all patterns' gammas that lies below each end
  lo, hi = stats.norm(0, max(sd, 1e-9)).cdf([r.prior_mean - half, r.prior_mean + half])
  assert 0.935 < np.mean(hi - lo) < most


def test_correction_helps_new_rows_and_only_where_there_is_something_to_correct():
  brier = lambda p, y: np.nanmean((p - y)**2, axis=0)
  for scale, expected in ((0.1, "better"), (0.0, "unchanged")):
    gains = []
    for seed in range(10):
      data, gamma = _world(n=6000, seed=seed, scale=scale)
      first, rest = [v[:2000] for v in data], [v[2000:] for v in data]
      r = rectifier_lib.fit(*first, _config(), 0)
      gains.append(
          brier(rest[1], rest[0]) - brier(rectifier_lib.apply(r, rest[1], rest[2]), rest[0]))
    if expected == "better":
      assert (np.array(gains) >= 0).all() and np.mean(np.equal(gains, 0)) < 0.3
    else:
      assert np.mean(gains) > -1e-4 and np.mean(np.equal(gains, 0)) > 0.5


def test_labels_of_noise_give_auroc_one_half():
  from sklearn.metrics import roc_auc_score
  scores = []
  for seed in range(20):
    rng = np.random.default_rng(seed)
    y, f, pattern = rng.integers(0, 2, (1000, 1)), rng.random((1000, 1)), rng.integers(0, 16, 1000)
    out = rectifier_lib.cross_fitted(y, f, pattern, np.arange(1000),
                                     _config(thresholds=(0.0,)), seed)
    scores.append(roc_auc_score(y[:, 0], out[:, 0]))
  assert abs(np.mean(scores) - 0.5) < 4 * 0.0183 / np.sqrt(20)


def test_new_labels_do_not_exist_for_apply():
  """What is applied to a row depends on the row's f and pattern only."""
  (y, f, pattern, patient), _ = _world()
  r = rectifier_lib.fit(y, f, pattern, patient, _config(), 0)
  alone = np.concatenate([rectifier_lib.apply(r, f[i:i + 1], pattern[i:i + 1]) for i in range(50)])
  np.testing.assert_array_equal(alone, rectifier_lib.apply(r, f, pattern)[:50])


@pytest.mark.parametrize("change,message", [
    (lambda y, f: (y, f + 1), "probabilities"),
    (lambda y, f: (y, np.where(f > 0.5, np.nan, f)), "probabilities"),
    (lambda y, f: (y + 1, f), "neither 0, 1"), (lambda y, f: (y[:, :1], f), "must be")])
def test_refuses_bad_input(change, message):
  (y, f, pattern, patient), _ = _world(n=100)
  with pytest.raises(ValueError, match=message):
    rectifier_lib.fit(*change(y, f), pattern, patient, _config(), 0)


@pytest.mark.parametrize("scale", ["probability", "logit"])
@pytest.mark.parametrize("rows_per_patient", [1, 3])
def test_rows_in_parts_give_what_they_give_at_once(scale, rows_per_patient, monkeypatch):
  """Many rows, in parts of which the last is not full."""
  (y, f, pattern, patient), _ = _world(n=1100, rows_per_patient=rows_per_patient, scale=0.2)
  c = _config(scale=scale)
  both = []
  for part in (10_000, 256):
    monkeypatch.setattr(segments, "_PART", part)
    both.append((rectifier_lib.fit(y, f, pattern, patient, c, 1),
                 rectifier_lib.cross_fitted(y, f, pattern, patient, c, 1)))
  (whole, whole_p), (parts, parts_p) = both
  for field in dataclasses.fields(whole):
    found, expected = getattr(parts, field.name), getattr(whole, field.name)
    if field.name in ("scale", "shrinkage"):
      assert found == expected
    else:
      np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-15, err_msg=field.name)
  np.testing.assert_allclose(parts_p, whole_p, rtol=1e-9)
  assert np.isfinite(whole.threshold).any()


@pytest.mark.parametrize("scale", ["probability", "logit"])
def test_gains_of_single_rows_are_those_of_patients(scale):
  """The short way, through cells, where patients have one row; the long way, through patients."""
  c = _config(scale=scale, folds=3)
  rows = rectifier_lib.checked(*_world(n=500)[0], c, 0)
  assert rows.alone
  n = (~np.isnan(rows.y)).sum(0)
  gamma = np.random.default_rng(0).normal(scale=0.1, size=(2, 3, 4))
  both = [[np.array(found) for found in gains(rows, n, gamma, (0.0, 0.05, 0.1), scale)]
          for gains in (residuals.alone_gains, residuals.patient_gains)]
  np.testing.assert_allclose(*both, rtol=1e-11)


def test_folds_are_even_and_start_at_random():
  fold = rectifier_lib._deal(1003, 5, 0)
  assert sorted(np.bincount(fold)) == [200, 200, 201, 201, 201]
  blocks = fold[:1000].reshape(-1, 5)
  assert len({tuple(block) for block in blocks}) == 5
  assert np.abs(np.corrcoef(blocks[:-1, 0], blocks[1:, 0])[0, 1]) < 0.3


def test_refuses_bad_config():
  (y, f, pattern, patient), _ = _world(n=100)
  for override in (dict(folds=1), dict(scale="odds"), dict(thresholds=(-0.1,))):
    with pytest.raises(ValueError, match="config.rectifier"):
      rectifier_lib.fit(y, f, pattern, patient, _config(**override), 0)


def test_pattern_ids_are_those_of_the_cohort():
  observed = np.array([[True, False, False, True]])
  assert cohort_lib.pattern_id(observed)[0] == 9
  r = rectifier_lib.fit(np.ones((4, 1)), np.full((4, 1), 0.5), np.full(4, 9), np.arange(4),
                        _config(), 0)
  assert r.patterns.tolist() == [9] and r.patterns.dtype == np.int64
