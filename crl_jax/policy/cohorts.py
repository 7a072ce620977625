"""Rows of a study by name: config.policy.cohort."""

from crl_jax.policy import data, mmnar, simsum


def build(config):
  """The validated PolicyCohort of a config. Raises CohortError."""
  c, simulate = config.policy, config.data.simulate
  make = {"simsum": lambda: simsum.make(simulate.rows, config.seed, c.world),
          "mmnar": lambda: mmnar.make(config, c.xi),
          "saved": lambda: data.load(config.data.root)}[c.cohort]
  return data.validate(make())
