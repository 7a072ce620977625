"""Where a risk ranking misleads and a causal one does not: how the sickest's gain moves both."""

from experiments import policy
from experiments.tables import Result

_ALIGN = (-1.0, -0.5, 0.0, 0.5, 1.0)
TITLE = "Ranking by effect and by risk, over how much the sickest gain"


def make(studies):
  if studies.config.policy.cohort != "semisynthetic":
    return Result("policy_align", TITLE, [], None,
                  ("Of semi-synthetic studies: configs/policy_semisynthetic.py.",))
  rows = []
  for align in _ALIGN:
    settings = (f"policy.semisynthetic.align={align}",)
    pair = next(d for d in studies.metrics(settings)["policies"]["differences"]
                if (d["first"], d["second"]) == ("aace", "risk"))["autoc"]
    rows.append(dict(align=f"{align:+.1f}", **{
        f"AUTOC of {name}": studies.mean(policy.truth(name, "autoc"), settings)
        for name in ("oracle", "aace", "risk")}, estimated_difference=pair["value"],
                     estimated_difference_lo=pair["lo"], estimated_difference_hi=pair["hi"]))
  return Result("policy_align", TITLE, rows, None,
                ("Align: minus the correlation of the outcome without treatment and the effect. At "
                 "+1 the sickest gain most and risk ranks rightly; at 0 and -1 it misleads. "
                 "Difference: AUTOC of aace minus that of risk, estimated from the first seed's "
                 "test rows without the truth, with its 95% interval.",))
