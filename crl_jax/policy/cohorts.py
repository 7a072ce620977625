"""Rows of a study by name: config.policy.cohort."""

import numpy as np

from crl_jax.data import sources
from crl_jax.data.cohort import CohortError
from crl_jax.policy import data, mmnar, semisynthetic, simsum


def build(config):
  """The validated PolicyCohort of a config. Raises CohortError."""
  c, simulate = config.policy, config.data.simulate
  make = {"simsum": lambda: simsum.make(simulate.rows, config.seed, c.world),
          "mmnar": lambda: mmnar.make(config, c.xi),
          "semisynthetic": lambda: _semisynthetic(config),
          "saved": lambda: data.load(config.data.root)}[c.cohort]
  return data.validate(make())


def _semisynthetic(config):
  """On the first row of each patient of config.data.cohort."""
  c = config.policy.semisynthetic
  features = [tuple(name.split("/", 1)) for name in c.features]
  if wrong := [f[0] for f in features if len(f) < 2]:
    raise CohortError(f"config.policy.semisynthetic.features names {wrong[0]!r}: write "
                      "modality/feature.")
  cohort = sources.build_cohort(config)
  first = np.sort(np.unique(cohort.patient_id, return_index=True)[1])
  return semisynthetic.make(cohort.take(first), features, c.align, c.overlap, c.share, config.seed)
