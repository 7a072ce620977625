"""Real inputs, simulated treatment: how risk and effect go together is set exactly."""

import dataclasses

import numpy as np
import pytest

from crl_jax import config as config_lib
from crl_jax.data import simulate
from crl_jax.data.cohort import CohortError
from crl_jax.policy import data, semisynthetic

FEATURES = tuple(("structured", f"structured_{j}") for j in range(4))


@pytest.fixture(scope="module")
def cohort():
  c = config_lib.default()
  c.data.simulate.rows, c.data.simulate.sizes, c.data.simulate.draws = 600, (6, 4, 4, 4), 2
  found = simulate.build(c)
  found.inputs["structured"][::5, 1] = np.nan
  return found


@pytest.mark.parametrize("align", [-1.0, 0.0, 0.6, 1.0])
def test_the_correlation_of_risk_and_effect_is_exact(cohort, align):
  p = data.validate(semisynthetic.make(cohort, FEATURES, align, 1.5, 0.3, 0))
  assert np.corrcoef(p.truth["mu0"], p.effect)[0, 1] == pytest.approx(-align, abs=1e-9)
  assert p.effect.mean() == pytest.approx(-1) and p.effect.std() == pytest.approx(0.8)
  assert p.truth["mu0"].std() == pytest.approx(1)
  assert p.truth["e"].mean() == pytest.approx(0.3) and p.truth["e"].min() >= 0.05
  assert abs(p.treatment.mean() - 0.3) < 4 * 0.5 / np.sqrt(600)


def test_values_that_nobody_recorded_move_nothing(cohort):
  p = semisynthetic.make(cohort, FEATURES, 0.5, 1.0, 0.5, 0)
  assert np.isnan(p.annotations[::5, 1]).all() and p.names[1] == "structured.structured_1"
  assert p.shared == FEATURES and not p.cohort.references
  again = semisynthetic.make(cohort, FEATURES, -0.5, 1.0, 0.5, 0)
  np.testing.assert_array_equal(again.treatment, p.treatment)   # align moves effects alone
  other = semisynthetic.make(cohort, FEATURES, 0.5, 1.0, 0.5, 1)
  assert (other.truth["mu0"] != p.truth["mu0"]).any()


@pytest.mark.parametrize("change, words", [
    ({"align": 1.5}, "align in"), ({"overlap": 0}, "overlap above 0"), ({"share": 1}, "share in"),
    ({"features": (("structured", "sodium"),)}, "features names"),
    ({"features": ()}, "0 of 0 are constant")])
def test_what_cannot_be_is_refused(cohort, change, words):
  with pytest.raises(CohortError, match=words):
    semisynthetic.make(cohort, **({"features": FEATURES, "align": 0, "overlap": 1, "share": 0.5,
                                   "seed": 0} | change))


def test_several_rows_of_a_patient_are_refused(cohort):
  with pytest.raises(CohortError, match="one row a patient"):
    semisynthetic.make(dataclasses.replace(cohort, patient_id=cohort.patient_id // 2), FEATURES, 0,
                       1, 0.5, 0)
