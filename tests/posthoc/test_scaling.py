"""Calibration by a line: it mends what is wrong, leaves what is right, and is chosen without a
row's own outcome."""

import numpy as np
import pytest

from crl_jax.posthoc import folds, logits, scaling


def make(n=3000, slope=1.0, intercept=0.0, seed=0):
  """(y, p, patient): outcomes of sigmoid(intercept + slope logit p)."""
  rng = np.random.default_rng(seed)
  logit = rng.normal(-1, 1.5, n)
  y = (rng.random(n) < logits.sigmoid(intercept + slope * logit)).astype(float)
  return y, logits.sigmoid(logit), np.arange(n)


def choose(y, p, patient):
  return scaling.choose(y, p, patient, folds.deal(y, patient, 5, 0))


@pytest.mark.parametrize("slope, intercept, kind", [
    (1.0, 0.0, "none"), (0.4, 0.0, "temperature"), (0.5, -0.8, "platt")])
def test_the_line_that_is_needed_is_taken(slope, intercept, kind):
  found, losses = choose(*make(slope=slope, intercept=intercept))
  assert set(losses) == set(scaling.KINDS) and losses[found.kind] == min(losses.values())
  assert scaling.KINDS.index(found.kind) >= scaling.KINDS.index(kind)   # a richer one by chance
  assert found.slope == pytest.approx(slope, abs=0.06)
  assert found.intercept == pytest.approx(intercept, abs=0.1)
  y, p, _ = make(slope=slope, intercept=intercept, seed=1)
  spared = (logits.log_loss(y, logits.of(p)) - logits.log_loss(y, logits.of(found(p)))).mean()
  assert spared > (0.03 if kind != "none" else -0.002)


def test_few_outcomes_hardly_move_the_line_and_fewer_not_at_all():
  y, p, patient = make(60, slope=0.2)
  slope = scaling.fit("platt", y, p).slope
  assert 0.2 < slope < 1   # between what they say and the prior
  y = np.zeros(60)
  y[:4] = 1
  found, losses = choose(y, p, patient)
  assert found == scaling.Scaling() and list(losses) == ["none"]
  np.testing.assert_array_equal(found(p), p)
  assert choose(y[:0], p[:0], patient[:0]) == (scaling.Scaling(), {"none": None})


def test_a_held_out_loss_is_that_of_the_other_folds_line():
  y, p, patient = make(200, slope=0.5)
  fold = folds.deal(y, patient, 4, 0)
  loss = 0
  for k in range(4):
    line = scaling.fit("temperature", y[fold != k], p[fold != k])
    loss += logits.log_loss(y[fold == k], logits.of(line(p[fold == k]))).sum()
  assert scaling.losses(y, p, fold)["temperature"] == pytest.approx(loss / 200)


def test_folds_keep_a_patient_together_and_spread_those_with_the_outcome():
  patient = np.repeat(np.arange(100), 3) * 7 - 5
  y = np.zeros(300)
  y[:45:3] = 1   # 15 patients
  fold = folds.deal(y, patient, 5, 0)
  assert all(len(set(fold[patient == one])) == 1 for one in set(patient))
  assert all(len(np.unique(patient[(fold == k) & (y == 1)])) == 3 for k in range(5))
  assert folds.enough(y, patient) and not folds.enough(y[12 * 3:], patient[12 * 3:])
