"""Without a data root MIMIC is a simulated cohort that says so; with one it is refused."""

import pytest

from crl_jax import config as config_lib
from crl_jax.data import cohort as cohort_lib
from crl_jax.data import mimic


def test_simulated_cohort_in_mimics_shape_says_so():
  c = config_lib.default()
  c.data.simulate.rows = 50
  cohort = mimic.build(c)
  assert {m: x.shape for m, x in cohort.inputs.items()} == dict(
      structured=(50, 64), image=(50, 1376), discharge=(50, 768), radiology=(50, 768))
  assert "SIMULATED" in cohort.info["banner"] and "not MIMIC" in cohort.info["banner"]
  assert "truth" in cohort.info


def test_data_root_is_refused_with_the_next_step():
  c = config_lib.default()
  c.data.root = "somewhere"
  with pytest.raises(cohort_lib.CohortError, match="does not exist yet.*configs/eicu.py"):
    mimic.build(c)
