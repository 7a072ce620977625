"""The yardsticks: what they see, that they find a signal, and labels they cannot be fitted to."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from crl_jax import config as config_lib
from crl_jax.data import preprocess
from crl_jax.data.cohort import Cohort
from crl_jax.engine import yardsticks


def make(n=400, seed=0):
  """(x (n, 6), y (n, 2)): task 0 linear in x, task 1 an interaction that only the boosting can
  find."""
  rng = np.random.default_rng(seed)
  x = rng.normal(size=(n, 6)).astype(np.float32)
  logit = np.stack([2 * x[:, 0], 3 * np.sign(x[:, 1] * x[:, 2])], axis=1)
  return x, (rng.random((n, 2)) < 1 / (1 + np.exp(-logit))).astype(np.float32)


def fit(y_change=lambda y: y, seed=0):
  (x, y), (x_val, y_val), (x_new, y_new) = make(), make(150, 1), make(1000, 2)
  return yardsticks.fit_predict(x, y_change(y), x_val, y_change(y_val), x_new, seed), y_new


def test_design_matrix_zero_fills_and_appends_the_bits():
  inputs = dict(a=np.array([[1., 2.], [3., np.nan]]), b=np.arange(12.).reshape(2, 3, 2))
  observed = np.array([[True, True], [False, True]])
  x = yardsticks.design_matrix(inputs, observed, ("a", "b"))
  assert x.dtype == np.float32
  np.testing.assert_array_equal(
      # NaN where unobserved is not looked at
      x, [[1, 2, 0, 1, 2, 3, 4, 5, 1, 1], [0, 0, 6, 7, 8, 9, 10, 11, 0, 1]])


def test_design_matrix_refuses_nan_where_observed():
  with pytest.raises(ValueError, match="modality 'a' has 1 rows"):
    yardsticks.design_matrix(dict(a=np.array([[np.nan], [1.]])), np.ones((2, 1), bool), ("a",))


def test_each_finds_its_signal_and_repeats_itself():
  found, y = fit()
  auroc = {name: [roc_auc_score(y[:, t], p[:, t]) for t in range(2)] for name, p in found.items()}
  assert set(found) == {"logistic", "boosting"} and all(
      p.shape == (1000, 2) for p in found.values())
  assert min(auroc["logistic"][0], auroc["boosting"][0]) > 0.82
  assert auroc["boosting"][1] > 0.85 and auroc["logistic"][1] < 0.6
  again, _ = fit()
  for name, p in found.items():
    np.testing.assert_array_equal(p, again[name])


def test_undefined_labels_are_left_out():
  def hide(y):
    y = y.copy()
    y[::3, 0] = np.nan
    return y
  found, _ = fit(hide)
  (x, y), (x_val, y_val), (x_new, _) = make(), make(150, 1), make(1000, 2)
  keep, keep_val = np.arange(len(x)) % 3 > 0, np.arange(len(x_val)) % 3 > 0
  alone = yardsticks.fit_predict(x[keep], y[keep], x_val[keep_val], y_val[keep_val], x_new, 0)
  for name in found:
    np.testing.assert_array_equal(found[name][:, 0], alone[name][:, 0])


@pytest.mark.parametrize("label, rate", [(0., 0.), (1., 1.), (np.nan, 0.5)])
def test_one_class_gets_the_training_rate(label, rate):
  def change(y):
    y = y.copy()
    y[:, 1] = label
    return y
  found, _ = fit(change)
  for p in found.values():
    assert (p[:, 1] == rate).all() and len(np.unique(p[:, 0])) > 10


def test_without_a_labelled_validation_row():
  (x, y), (x_val, y_val), (x_new, y_new) = make(), make(150, 1), make(1000, 2)
  for y_v in (np.full_like(y_val, np.nan), np.zeros_like(y_val)):   # none, or one class
    found = yardsticks.fit_predict(x, y, x_val, y_v, x_new, 0)
    assert all(np.isfinite(p).all() for p in found.values())
    assert roc_auc_score(y_new[:, 0], found["boosting"][:, 0]) > 0.75


def small_cohort(rows=300):
  rng = np.random.default_rng(0)
  inputs = {"a": rng.normal(size=(rows, 3)).astype(np.float32),
            "b": rng.normal(size=(rows, 4, 2)).astype(np.float32)}
  observed = rng.random((rows, 2)) < 0.8
  for m, x in enumerate(inputs.values()):
    x[~observed[:, m]] = 0
  labels = (rng.random((rows, 2)) < 0.4).astype(np.float32)
  index = np.arange(rows)
  return Cohort(("a", "b"), ("y", "z"), inputs, observed, labels, index, index, {},
                {"a": ["1", "2", "3"], "b": ["1", "2"]})


def test_a_cohorts_yardsticks_see_no_more_rows_than_they_hold(monkeypatch, caplog):
  cohort = small_cohort()
  rows = dict(train=np.arange(200), val=np.arange(200, 240), test=np.arange(240, 300))
  stats = preprocess.fit(cohort.inputs, cohort.observed, cohort.modalities, rows["train"],
                         config_lib.default().preprocess)
  inputs = preprocess.transform(stats, cohort.inputs, cohort.observed, cohort.modalities)
  x, y = yardsticks.design_matrix(inputs, cohort.observed, cohort.modalities), cohort.labels
  def compare(train):
    found = yardsticks.of_cohort(cohort, stats, rows, 0)
    expected = yardsticks.fit_predict(x[train], y[train], x[rows["val"]], y[rows["val"]],
                                      x[rows["test"]], 0)
    for name, p in expected.items():
      np.testing.assert_allclose(found[name], p, rtol=1e-5)
  compare(rows["train"])
  assert not caplog.records
  monkeypatch.setattr(yardsticks, "BYTES", 50 * x[:1].nbytes)
  monkeypatch.setattr(yardsticks, "_CHUNK_BYTES", 7 * 4 * 11)   # seven rows at a time
  seen, transform = [], preprocess.transform
  monkeypatch.setattr(preprocess, "transform", lambda stats, inputs, *rest: (
      seen.append(len(inputs["a"])), transform(stats, inputs, *rest))[1])
  compare(np.linspace(0, 199, 50).astype(int))
  assert max(seen) == 7
  assert "50 of 200 train rows" in caplog.text and "val" not in caplog.text
