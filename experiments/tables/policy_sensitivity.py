"""How strong an unmeasured confounder has to be before the policy is no better."""

from experiments.tables import Result


def make(studies):
  rows = []
  for pair in studies.metrics()["sensitivity"]:
    for bound in pair["bounds"]:
      rows.append(dict(policy=pair["first"], instead_of=pair["second"],
                       budget=f"{pair['budget']:.0%}", strength=bound["gamma"],
                       least=bound["lower"], most=bound["upper"], breakdown=pair["breakdown"]))
  return Result("policy_sensitivity", "Bounds under an unmeasured confounder", rows, None,
                ("Strength: by how much it may multiply the odds of treatment (marginal "
                 "sensitivity model). Breakdown: the least strength at which the bounds hold 0.",))
