"""A cohort in a folder that data/cohort.py wrote: a source of your own, or one prepared before."""

import pathlib

from crl_jax.data import cohort as cohort_lib


def build(config, for_prediction=False):
  """Returns the `Cohort` in the folder config.data.root, its inputs read from disk as they are
  used. `for_prediction` changes nothing. Raises CohortError where there is none."""
  del for_prediction
  root = pathlib.Path(config.data.root)
  if not config.data.root or not (root / "cohort.json").exists():
    raise cohort_lib.CohortError(
        f"config.data.root='{config.data.root}' holds no cohort.json: give the folder of a cohort "
        "written by crl_jax.data.cohort.save().")
  return cohort_lib.load(root)
