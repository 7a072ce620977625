"""How many training rows have to be annotated?"""

import dataclasses

import numpy as np

from crl_jax.data.cohort import CohortError
from crl_jax.policy import data
from experiments import policy
from experiments.tables import Result

_SHARES = (1.0, 0.5, 0.3, 0.1)


def some(share):
  """(name, change) that leaves a random `share` of the annotated training rows annotated."""
  def change(p, config):
    train = data.split(p, config.policy, config.seed)["train"]
    lose = np.zeros(len(p), bool)
    lose[train] = np.random.default_rng([config.seed, 0x50FE]).random(len(train)) >= share
    annotations = p.annotations.copy()
    annotations[lose] = np.nan
    return dataclasses.replace(p, annotations=annotations, annotated=p.annotated & ~lose)
  return f"{share:.0%} of the training rows annotated", change


def make(studies):
  rows, said = [], ["Who is annotated is drawn at random, so no weights are needed."]
  for share in _SHARES:
    change = some(share) if share < 1 else None
    try:
      rows.append(dict(annotated=f"{share:.0%}", **{
          head: studies.mean(policy.truth(name, key), change=change)
          for head, name, key in (("PEHE", "aace", "pehe"), ("AUTOC", "aace", "autoc"),
                                  ("AUTOC of dr_x", "dr_x", "autoc"))}))
    except CohortError as error:
      said.append(f"{share:.0%}: {error}")
  return Result("policy_annotation", "Annotated training rows", rows, None, tuple(said))
