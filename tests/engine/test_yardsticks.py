"""The yardsticks: what they see, that they find a signal, and labels they cannot be fitted to."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from crl_jax import config as config_lib
from crl_jax.data import preprocess
from crl_jax.data.cohort import Cohort
from crl_jax.engine import rivals, yardsticks


NAMES = {"logistic", "onehot", "boosting", "forest"}   # those that crl_jax's own packages have


def make(n=400, seed=0):
  """(x (n, 8), y (n, 3)): six values, of which two bits last; task 0 linear in x, task 1 an
  interaction that only trees can find, task 2 that of the bits, which the one-hot finds too."""
  rng = np.random.default_rng(seed)
  x = np.concatenate([rng.normal(size=(n, 6)), rng.random((n, 2)) < 0.5], 1).astype(np.float32)
  bits = 2 * x[:, 6:] - 1
  logit = np.stack([2 * x[:, 0], 3 * np.sign(x[:, 1] * x[:, 2]), 3 * bits[:, 0] * bits[:, 1]], 1)
  return x, (rng.random((n, 3)) < 1 / (1 + np.exp(-logit))).astype(np.float32)


def fit(y_change=lambda y: y, seed=0, n=400):
  (x, y), (x_new, y_new) = make(n), make(1000, 2)
  fitted = yardsticks.fit(x, y_change(y), np.arange(n), 2, seed, sorted(NAMES))
  return fitted.predict(x_new), y_new, fitted.chosen


@pytest.fixture(scope="module")
def fitted():
  return fit()


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


def test_each_finds_its_signal_and_repeats_itself(fitted):
  found, y, chosen = fitted
  auroc = {name: [roc_auc_score(y[:, t], p[:, t]) for t in range(3)] for name, p in found.items()}
  assert set(found) == NAMES and all(p.shape == (1000, 3) for p in found.values())
  assert min(of[0] for of in auroc.values()) > 0.82
  assert auroc["boosting"][1] > 0.8 and auroc["forest"][1] > 0.75 and auroc["logistic"][1] < 0.6
  assert auroc["onehot"][2] > 0.9 and auroc["logistic"][2] < 0.6   # what a column a pattern buys
  assert chosen["boosting"][1]["trees"] in rivals.TREES and "C" in chosen["logistic"][0]
  again, _, same = fit()
  assert same == chosen
  for name, p in found.items():
    np.testing.assert_array_equal(p, again[name])


def test_undefined_labels_are_left_out(fitted):
  def hide(y):
    y = y.copy()
    y[::3, 0] = np.nan
    return y
  found, _, _ = fit(hide)
  (x, y), (x_new, _) = make(), make(1000, 2)
  keep = np.arange(len(x)) % 3 > 0
  some = x[keep], y[keep][:, :1], np.flatnonzero(keep)
  alone = yardsticks.fit(*some, 2, 0, ["logistic", "boosting"]).predict(x_new)
  for name in alone:
    np.testing.assert_array_equal(found[name][:, 0], alone[name][:, 0])
    np.testing.assert_array_equal(found[name][:, 1], fitted[0][name][:, 1])


@pytest.mark.parametrize("label, rate", [(0., 0.), (1., 1.), (np.nan, 0.5)])
def test_one_class_gets_the_training_rate(label, rate):
  def change(y):
    y = y[:, :2].copy()
    y[:, 1] = label
    return y
  found, _, chosen = fit(change, n=100)
  for name, p in found.items():
    assert (p[:, 1] == rate).all() and len(np.unique(p[:, 0])) > 10
    assert chosen[name][1] is None and chosen[name][0]


def test_one_thread_works_at_a_time(monkeypatch):
  import threadpoolctl
  threads = []
  at = rivals.RIVALS["logistic"].at
  monkeypatch.setitem(rivals.RIVALS, "logistic", rivals.RIVALS["logistic"]._replace(
      at=lambda *args: threads.append([pool["num_threads"] for pool in
                                       threadpoolctl.threadpool_info()]) or at(*args)))
  x, y = make(60)
  with threadpoolctl.threadpool_limits(2):
    yardsticks.fit(x, y[:, :1], np.arange(60), 2, 0, ["logistic"])
    after = [pool["num_threads"] for pool in threadpoolctl.threadpool_info()]
  assert threads and set(threads[0]) == {1} and set(after) == {2}


def test_what_was_chosen_is_told_by_fold_and_so_is_what_is_absent(monkeypatch):
  monkeypatch.setattr(rivals, "available", lambda: ({}, ["xgboost"]))
  folds = [{"logistic": [dict(C=1.0), None]}, {"logistic": [dict(C=0.1), dict(C=0.3)]}]
  assert yardsticks.described(folds, ("a", "b")) == {"absent": ["xgboost"], "chosen": {"logistic": {
      "a": [dict(C=1.0), dict(C=0.1)], "b": [None, dict(C=0.3)]}}}


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
  settings = config_lib.default().preprocess
  stats = preprocess.fit(cohort.inputs, cohort.observed, cohort.modalities, rows["train"], settings)
  own = yardsticks.own_scale(cohort, stats, rows["train"], settings)
  assert len(own["a"]["knots"]) == settings.quantiles and len(stats["a"]["knots"]) == 1
  inputs = preprocess.transform(own, cohort.inputs, cohort.observed, cohort.modalities)
  x, y = yardsticks.design_matrix(inputs, cohort.observed, cohort.modalities), cohort.labels
  monkeypatch.setattr(rivals, "RIVALS", {"logistic": rivals.RIVALS["logistic"]})
  def compare(train):
    found, chosen = yardsticks.of_cohort(cohort, stats, rows, settings, 0)
    expected = yardsticks.fit(x[train], y[train], cohort.patient_id[train], 2, 0)
    assert chosen == expected.chosen and found.keys() == {"val", "test"}
    for role in found:
      np.testing.assert_allclose(found[role]["logistic"],
                                 expected.predict(x[rows[role]])["logistic"], rtol=1e-5)
  compare(rows["train"])
  assert not caplog.records
  monkeypatch.setattr(yardsticks, "BYTES", 50 * x[:1].nbytes)
  monkeypatch.setattr(yardsticks, "_CHUNK_BYTES", 7 * 4 * 11)   # seven rows at a time
  seen, transform = [], preprocess.transform
  monkeypatch.setattr(preprocess, "transform", lambda stats, inputs, *rest: (
      seen.append(len(inputs["a"])), transform(stats, inputs, *rest))[1])
  compare(np.linspace(0, 199, 50).astype(int))
  assert max(seen) == 7
  assert "50 of 200 train rows" in caplog.text


def test_tables_are_scaled_anew_and_embeddings_are_not(monkeypatch):
  cohort, rows = small_cohort(), np.arange(200)
  settings = config_lib.default().preprocess
  stats = preprocess.fit(cohort.inputs, cohort.observed, cohort.modalities, rows, settings)
  monkeypatch.setattr(yardsticks, "TABLE", 2)   # of three features: an embedding
  own = yardsticks.own_scale(cohort, stats, rows, settings)
  assert own["a"] is stats["a"] and len(own["b"]["knots"]) == settings.quantiles
  with settings.unlocked():
    settings.update(scale="quantile", indicators=True)
  assert yardsticks.own_scale(cohort, stats, rows, settings) is stats   # it is theirs already
