"""Noisy or model-made annotations: what flipped ones cost."""

import dataclasses

import numpy as np

from experiments import policy
from experiments.tables import Result

_RIGHT = (1.0, 0.9, 0.8, 0.7)   # sensitivity and specificity of the annotators


def flipped(right):
  """(name, change) that writes each 0/1 annotation down wrongly with probability 1 - right."""
  def change(p, config):
    rng = np.random.default_rng([config.seed, 0xF11B])
    known = p.annotations[p.annotated]
    binary = np.array([np.isin(x[~np.isnan(x)], (0, 1)).all() for x in known.T])
    wrong = (rng.random(p.annotations.shape) >= right) & binary
    return dataclasses.replace(p, annotations=np.where(
        wrong, 1 - p.annotations, p.annotations).astype(np.float32))
  return f"annotations right with probability {right:g}", change


def make(studies):
  rows = []
  for right in _RIGHT:
    change = flipped(right) if right < 1 else None
    value, lo, hi, true = policy.ate(studies.metrics(change=change))
    rows.append(dict(right=f"{right:.0%}", **{
        head: studies.mean(policy.truth("aace", key), change=change)
        for head, key in (("PEHE", "pehe"), ("AUTOC", "autoc"))}, ATE=value, ATE_lo=lo, ATE_hi=hi,
                     true=true))
  return Result("policy_noise", "Noisy annotations", rows, None,
                ("Each 0/1 annotation, of training and test rows, is wrong with the rest of the "
                 "probability. A confounder written down wrongly is in part unmeasured: the "
                 "average effect drifts to the confounded one.",))
