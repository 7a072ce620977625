"""The rectifier's experiment in small: coverage, the rate at which the error falls, the appendix
example."""

import numpy as np
import pytest

from crl_jax import config as config_lib
from crl_jax.data import simulate
from experiments import rectifier as experiment


@pytest.fixture(scope="module")
def lines():
  config = config_lib.default()
  world = simulate.make_world(config.data.simulate)
  bias, _ = experiment.true_bias(world, np.random.default_rng(0), 1_000_000)
  return experiment.sweep(world, bias, config.rectifier, {1000: 40, 16000: 20})


def test_estimates_are_within_two_standard_errors_of_the_true_bias(lines):
  for line in lines:
    assert 0.92 < line["within_2_se"] < 0.98 and 0.92 < line["within_interval"] < 0.98


def test_error_falls_as_one_over_root_n_and_new_rows_gain(lines):
  assert -0.58 < experiment.slope(lines) < -0.42
  assert all(line["brier_rectified"] < line["brier"] for line in lines)


def test_appendix_and_figure(lines, tmp_path):
  assert experiment.appendix(config_lib.default().rectifier) == pytest.approx(0.38)
  experiment.figure(tmp_path / "figure.png", lines)
  assert (tmp_path / "figure.png").stat().st_size > 5000
