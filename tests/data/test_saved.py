"""A saved cohort is a source like any other: configs/cohort.py, resident or streamed."""

import numpy as np
import pytest

from configs import cohort as config_file
from crl_jax import config as config_lib, run
from crl_jax.data import cohort as cohort_lib


def test_a_saved_cohort_trains_streamed_as_resident(tiny_config, tiny_run, finish, tmp_path):
  cohort_lib.save(run.build_cohort(tiny_config), tmp_path / "cohort")
  settings = ["data.cohort=saved", f"data.root={tmp_path / 'cohort'}"]
  for how in ("resident", "streamed"):
    found = finish(config_lib.override(tiny_config, [*settings, f"train.data={how}"]),
                   tmp_path / how)
    np.testing.assert_allclose(found.table.p_base_mortality, tiny_run.table.p_base_mortality,
                               atol=1e-4)


def test_its_config_names_what_is_missing(tmp_path):
  config = config_file.get_config()
  with pytest.raises(cohort_lib.CohortError, match="data.root='' holds no cohort.json"):
    run.build_cohort(config)
  with pytest.raises(cohort_lib.CohortError, match="cohort.save"):
    run.build_cohort(config_lib.override(config, [f"data.root={tmp_path}"]))
