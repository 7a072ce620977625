"""Folds x seeds in one program against as many programs."""

import jax
import numpy as np
import pytest
from sklearn import metrics

from crl_jax import members, run
from crl_jax.data import preprocess, splits as splits_lib

FIRST_STEPS = 50   # whose losses must agree to rounding; long training amplifies it


class Losses:
  """A writer.Writer that keeps each member's training losses, epoch by epoch."""

  def __init__(self):
    self.found = {}

  def rewind(self, epoch):
    pass

  def write(self, member, stage, epoch, scalars):
    self.found.setdefault(member, []).append(scalars["train/loss"])


@pytest.mark.slow
def test_twenty_five_members_are_twenty_five_runs(small_config, tmp_path):
  c = small_config.unlock()
  c.data.simulate.rows, c.train.batch_size = 1000, 32
  c.train.joint.epochs, c.members.folds, c.members.seeds = 5, 5, 5
  cohort = run.build_cohort(c.lock())
  splits = splits_lib.assign(cohort.patient_id, cohort.labels, 5, c.splits.validation, c.seed)
  stats = preprocess.fit_folds(cohort.inputs, cohort.observed, cohort.modalities,
                               [splits.rows(fold, "train") for fold in range(5)], c.preprocess)

  def trained(plans, folder):
    log = Losses()
    ready = members.fit(plans, cohort, splits, stats, jax.devices()[:1], tmp_path / folder, {}, log,
                        lambda *_: None, lambda: False)
    return log.found, ready.predict([splits.rows(plan.fold, "test") for plan in plans])

  plans = members.grid(c)
  losses, together = trained(plans, "together")
  steps = -(-max(len(splits.rows(fold, "train")) for fold in range(5)) // c.train.batch_size)
  for m, plan in enumerate(plans):
    expected, alone = trained([plan], plan.name)
    first = FIRST_STEPS // steps
    np.testing.assert_allclose(losses[plan.name][:first], expected[plan.name][:first], rtol=1e-4)
    y = cohort.labels[splits.rows(plan.fold, "test")]
    for t in range(y.shape[1]):
      known = ~np.isnan(y[:, t])
      a, b = (metrics.roc_auc_score(y[known, t], p[known, t]) for p in (together[m], alone[0]))
      assert abs(a - b) < 0.005
  assert first >= 2 and len({loss[0] for loss in losses.values()}) == 25
