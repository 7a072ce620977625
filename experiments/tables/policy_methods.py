"""Every policy: errors of its effects and its ranking, against the truth where that is known."""

from experiments import policy
from experiments.tables import Result

_OUT = ("oracle_risk", "oracle", "dr_x", "aace", "plugin", "t_learner", "tarnet", "dragonnet",
        "risk")


def make(studies):
  first = studies.metrics()
  if not first["truth"]:
    rows = [dict(policy=name, AUTOC=entry["autoc"]["value"], AUTOC_lo=entry["autoc"]["lo"],
                 AUTOC_hi=entry["autoc"]["hi"])
            for name, entry in first["policies"]["policies"].items() if "autoc" in entry]
    return Result("policy_methods", "Rankings, by doubly robust scores of the test rows", rows,
                  None, ("The truth is not known: AUTOC is estimated, with its 95% interval.",))
  rows = [dict(policy=name, **{head: studies.mean(policy.truth(name, key)) for head, key in (
      ("PEHE", "pehe"), ("bias", "bias"), ("AUTOC", "autoc"), ("QINI", "qini"))})
          for name in _OUT if name in first["truth"]]
  return Result("policy_methods", "Errors of the effects and rankings, against the truth", rows,
                None, ("PEHE: root mean squared error of the effects. AUTOC and QINI: of the true "
                       "effects, by each policy's order; more is better. A risk has no effect.",))
