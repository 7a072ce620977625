"""What treating a share of the patients by each policy is worth, where the truth is known."""

from experiments.tables import Result

TITLE = "Value of treating a share of the patients, and what is lost to the oracle"


def make(studies):
  first = studies.metrics()
  if not first["truth"]:
    return Result("policy_budget", TITLE, [], None, ("The truth is not known.",))
  rows = [dict(policy=name, budget=f"{line['budget']:.0%}", **{
      key: studies.mean(lambda m, k=key, name=name, i=i: m["truth"][name]["budgets"][i][k])
      for key in ("value", "regret")})
          for name, entry in first["truth"].items() for i, line in enumerate(entry["budgets"])]
  return Result("policy_budget", TITLE, rows, None,
                ("Value: the mean outcome if so many were treated, the first by the policy's "
                 "order. Regret: how much worse than by the true effects.",))
