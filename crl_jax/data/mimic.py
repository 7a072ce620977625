"""MIMIC-IV. Without a data root: a simulated cohort in its shape, so that the whole program runs
out of the box."""

import dataclasses

from crl_jax.data import cohort as cohort_lib
from crl_jax.data import simulate

BANNER = ("SIMULATED COHORT in MIMIC-IV's shape (same modalities, widths and availability). "
          "No patient was read: these numbers are not MIMIC-IV's.")


def build(config):
  """Returns the simulated `Cohort` with `info["banner"]`; raises CohortError when
  `config.data.root` is set."""
  if config.data.root:
    raise cohort_lib.CohortError(
        f"The MIMIC-IV reader does not exist yet, so config.data.root='{config.data.root}' cannot "
        "be read. Leave config.data.root unset to run the simulated cohort, or use "
        "--config=configs/eicu.py.")
  cohort = simulate.build(config)
  return dataclasses.replace(cohort, info={**cohort.info, "banner": BANNER})
