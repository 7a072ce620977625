"""The paper's way, scores of the rows that nuisances were fitted on, against cross-fitting."""

from experiments import policy
from experiments.tables import Result


def make(studies):
  if studies.config.policy.nuisances != "net":
    return Result("policy_folds", "Cross-fitting", [], None,
                  ("The paper's way is one of networks: policy.nuisances=net.",))
  rows = []
  for label, settings in (("cross-fitted", ()), ("the paper's way", ("policy.folds=1",))):
    value, lo, hi, true = policy.ate(studies.metrics(settings))
    rows.append(dict(scores=label, PEHE=studies.mean(policy.truth("aace", "pehe"), settings),
                     AUTOC=studies.mean(policy.truth("aace", "autoc"), settings),
                     ATE=value, ATE_lo=lo, ATE_hi=hi, true=true))
  return Result("policy_folds", "Cross-fitting", rows, None,
                ("Errors over the seeds, the average effect of the first. Without cross-fitting "
                 "its interval is too short.",))
