"""Cohorts by name: config.data.cohort is a module or package of crl_jax/data with a build()."""

import importlib

from crl_jax.data import cohort as cohort_lib, prepared


def build_cohort(config, **options):
  """The validated cohort of `config.data.cohort`: build(config, **options) of that module, prepared
  on disk where it has a RECIPE.

  Raises CohortError, for an unknown cohort too.
  """
  name = f"crl_jax.data.{config.data.cohort}"
  try:
    source = importlib.import_module(name)
    build = source.build
  except (ModuleNotFoundError, AttributeError) as error:
    if error.name in (name, "build"):
      raise cohort_lib.CohortError(f"config.data.cohort '{config.data.cohort}': no module of "
                                   "crl_jax/data with a build().") from error
    raise
  recipe = getattr(source, "RECIPE", None)
  if recipe is None or options:   # new patients are read once
    return cohort_lib.validate(build(config, **options))
  return cohort_lib.validate(prepared.build(config, recipe, lambda: build(config)))
