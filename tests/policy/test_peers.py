"""The same scores and rankings as other packages have, where they are installed: pip install
crl_jax[peers]."""

import importlib.util
import json
import pathlib

import numpy as np
import pytest

from crl_jax.policy import value

GOLDEN = json.loads((pathlib.Path(__file__).parent / "data/policy_golden.json").read_text())


def installed(name):
  """The package, or a skip that says how to have it."""
  if importlib.util.find_spec(name) is None:
    pytest.skip(f"{name} is not installed: pip install crl_jax[peers]")
  return importlib.import_module(name)


@pytest.fixture
def ranked():
  """2,000 priorities and signed scores, no ties."""
  rng = np.random.default_rng(0)
  priority = rng.normal(size=2000)
  return priority, 0.5 * priority + rng.normal(size=2000)


def test_econml_has_the_same_scores():
  installed("econml")
  from econml.validate.utils import calculate_dr_outcomes
  part = {name: np.array(values) for name, values in GOLDEN["dr"].items()}
  found = calculate_dr_outcomes(
      part["T"].astype(int), part["Y"], np.stack([part["mu0"], part["mu1"]], 1),
      np.stack([1 - part["e"], part["e"]], 1))[:, 0]
  np.testing.assert_allclose(found, part["delta_eps_0.01"], atol=1e-12)


def test_econml_has_the_same_rates(ranked):
  """Its left sum over a grid as fine as the rows has all steps of ours but one."""
  installed("econml")
  from econml.validate.utils import calc_uplift
  priority, benefit = ranked
  share = np.arange(2000) / 20
  for metric, name in (("toc", "autoc"), ("qini", "qini")):
    found = calc_uplift(priority, priority, benefit, share, metric, n_bootstrap=10)
    assert found[0] == pytest.approx(value.rate(priority, benefit)[name], abs=3e-3), name
    ours = value.rankings({"p": priority}, benefit, np.arange(2000))["policies"]["p"][name]
    assert found[1] == pytest.approx(ours["se"], rel=0.25)


def test_causalml_has_the_same_curve(ranked):
  installed("causalml")
  import pandas as pd
  from causalml.metrics import get_toc
  priority, benefit = ranked
  found = get_toc(pd.DataFrame({"priority": priority, "tau": benefit, "y": 0.0, "w": 0}),
                  treatment_effect_col="tau", outcome_col="y", treatment_col="w")
  np.testing.assert_allclose(found["priority"].to_numpy()[1:], value.toc(priority, benefit),
                             atol=1e-9)
