"""Average effects by what nuisances see, in worlds whose missingness moves treatment, outcome."""

from experiments import policy
from experiments.tables import Result


def make(studies):
  worlds = ({f"world {world}": (f"policy.world={world}",) for world in "ABC"}
            if studies.config.policy.cohort == "simsum" else {})
  rows = []
  for label, settings in {studies.config.policy.cohort: (), **worlds}.items():
    metrics = studies.metrics(settings)
    for i, level in enumerate(metrics["effects"]["levels"]):
      value, lo, hi, true = policy.ate(metrics, i)
      rows.append(dict(rows=label, nuisances=level["level"], ATE=value, ATE_lo=lo, ATE_hi=hi,
                       true=true, off=None if true is None else value - true,
                       interval=None if true is None else
                       "covers" if lo <= true <= hi else "does not cover"))
  return Result("policy_pattern", "The average effect, by what nuisances see", rows, None,
                ("One seed. Worlds: A, a note exists for a reason that moves treatment and "
                 "outcome; B, annotations are missing not at random; C, treatment hung on values "
                 "that nobody recorded: no estimate is right there, the sensitivity analysis is "
                 "what is left.",), {"off": "+.3f"})
