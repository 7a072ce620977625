"""How many training rows are enough?"""

from experiments import policy
from experiments.tables import Result

_SHARES = (0.7, 0.4, 0.2, 0.1)


def make(studies):
  rows = []
  for share in _SHARES:
    settings = ("policy.split=paper", f"policy.train_share={share}")
    rows.append(dict(training_rows=f"{share:.0%} of all", **{
        f"{head} of {name}": studies.mean(policy.truth(name, key), settings)
        for name in ("aace", "t_learner") for head, key in (("PEHE", "pehe"), ("AUTOC", "autoc"))}))
  return Result("policy_learning", "Learning curve", rows, None,
                ("The paper's split: the last tenth of the rows is the test.",))
