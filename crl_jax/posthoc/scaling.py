"""Calibration of one predictor's probabilities by a line through their log-odds:

    none           p
    temperature    sigmoid(b logit p)
    platt          sigmoid(a + b logit p)   (Platt 1999; Guo et al. 2017, arXiv 1706.04599)

They compete by the log-loss of held-out calibration patients; among equals the simplest wins. A
line has a prior around none: few events would draw it by chance.
"""

import typing

import numpy as np

from crl_jax.posthoc import folds, logits

KINDS = ("none", "temperature", "platt")
_SD = 0.3   # of the prior of b - 1, and of a at the mean logit


class Scaling(typing.NamedTuple):
  """A line through the log-odds."""
  kind: str = "none"
  slope: float = 1.0
  intercept: float = 0.0

  def __call__(self, p):
    """(N,) calibrated probabilities of p (N,)."""
    if self.kind == "none":
      return np.array(p, np.float64)
    return logits.sigmoid(self.intercept + self.slope * logits.of(p))


def fit(kind, y, p):
  """The Scaling of a kind with the largest posterior, from y (N,) in {0, 1} and p (N,)."""
  if kind == "none":
    return Scaling()
  logit = logits.of(p)
  centre = logit.mean() if kind == "platt" else 0.0   # where the prior of the intercept holds
  design = np.stack([logit - centre, np.ones(len(y))][:1 + (kind == "platt")], 1)
  weight = logits.newton(y, logit, design, np.full(design.shape[1], _SD))
  slope = 1 + float(weight[0])
  intercept = float(weight[1] - weight[0] * centre) if kind == "platt" else 0.0
  return Scaling(kind, slope, intercept)


def losses(y, p, fold):
  """kind -> mean log-loss of rows that the line of the other folds calibrates.

  Args:
    y: (N,) in {0, 1}.
    p: (N,) by a predictor that did not see these outcomes.
    fold: (N,) of folds.deal().
  """
  found = {}
  for kind in KINDS:
    after = np.empty(len(y))
    for k in np.unique(fold):
      mine = fold == k
      after[mine] = log_losses(y[mine], fit(kind, y[~mine], p[~mine])(p[mine]))
    found[kind] = float(after.mean())
  return found


def log_losses(y, p):
  """(N,) of outcomes in {0, 1} and probabilities."""
  return logits.log_loss(y, logits.of(p))


def choose(y, p, patient, fold):
  """(Scaling, losses()): the kind with the least of them, fitted on all rows. None, and the loss of
  that alone, where folds.FEWEST patients with an outcome are not there; null without rows.

  Args: as losses(); patient: (N,) ids.
  """
  if not folds.enough(y, patient):
    return Scaling(), {"none": float(log_losses(y, p).mean()) if len(y) else None}
  found = losses(y, p, fold)
  return fit(min(KINDS, key=found.get), y, p), found
