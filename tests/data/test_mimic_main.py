"""The whole program on the files of a simulated MIMIC-IV, in both protocols."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

from crl_jax import config as config_lib
from crl_jax.data import simulate_mimic

ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture(scope="module")
def mortality(minilm, tmp_path_factory):
  """protocol -> AUROC of mortality over the test rows of all folds, by the command of the README.
  """
  folder = tmp_path_factory.mktemp("whole")
  simulate_mimic.write(config_lib.default().data.simulate, folder / "root", 600, density=0.1)

  def run(protocol):
    done = subprocess.run(
        [sys.executable, "-m", "crl_jax.main", "--config=configs/mimic.py",
         f"--workdir={folder / protocol}", *(f"--config.{key}={value}" for key, value in {
             "data.root": folder / "root", "data.protocol": protocol, "data.cache": folder / "cohort",
             "text.model": minilm, "text.cache": folder / "text", "members.folds": 5,
             "evaluate.bootstrap": 50, "evaluate.yardsticks": False,
             "evaluate.informative": False}.items())],
        cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    metrics = json.loads((folder / protocol / "metrics.json").read_text())
    return metrics["test"]["mortality"]["auroc"]["value"]
  return {protocol: run(protocol) for protocol in ("honest", "paper")}


@pytest.mark.slow
def test_the_discharge_summary_flatters_the_paper_protocol(mortality):
  assert 0.5 < mortality["honest"] < mortality["paper"] - 0.1, mortality
