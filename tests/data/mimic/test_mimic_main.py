"""The whole program on the files of a simulated MIMIC-IV, from the command to the report, in both
protocols."""

import html
import json
import pathlib
import subprocess
import sys
import types

import pandas as pd
import pytest

from crl_jax import config as config_lib
from crl_jax.data import mimic
from crl_jax.data.mimic import simulate
from tests import compiling

ROOT = pathlib.Path(__file__).parents[3]
# all that the BERT below can read: how a stay ended, so that few patients suffice
WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "expired", "deceased", "stable", "coherent")
# the task that the protocol changes, alone; half of the patients tested
SMALL = {"loss.tasks.readmission.weight": 0.0, "loss.tasks.icu.weight": 0.0, "splits.folds": 2,
         "model.width": 16, "model.heads": 2, "model.crl_mmnar.reconstruction": False,
         "train.batch_size": 32, "train.pretrain.epochs": 0, "train.joint.epochs": 60,
         "train.joint.patience": 60, "train.joint.learning_rate": 5e-3, "train.ema": 0.9,
         "text.window": 32, "text.overlap": 4, "preprocess.components": 8,
         "evaluate.bootstrap": 50, "evaluate.yardsticks": False, "evaluate.informative": False,
         "evaluate.permutations": 20}


@pytest.fixture(scope="module")
def runs(make_bert, tmp_path_factory):
  """protocol -> (metrics, predictions of the test rows, report) of the README's command."""
  folder = tmp_path_factory.mktemp("whole")
  simulate.write(config_lib.default().data.simulate, folder / "root", 400, density=0.05)
  bert = make_bert(folder / "bert", vocab_size=len(WORDS))
  (bert / "vocab.txt").write_text("\n".join(WORDS) + "\n")

  def run(protocol):
    place = folder / protocol
    settings = {"data.root": folder / "root", "data.protocol": protocol, "text.model": bert,
                "data.cache": folder / "cohorts", "text.cache": folder / "text", **SMALL}
    done = subprocess.run(
        [sys.executable, "-m", "crl_jax.main", "--config=configs/mimic.py", f"--workdir={place}",
         *(f"--config.{key}={value}" for key, value in settings.items())],
        cwd=ROOT, capture_output=True, text=True,
        env=compiling.environment(PYTHONPATH=str(ROOT)))
    assert done.returncode == 0, done.stderr[-3000:]
    table = pd.read_parquet(place / "predictions.parquet")
    return types.SimpleNamespace(
        metrics=json.loads((place / "metrics.json").read_text())["test"],
        table=table[table.role == "test"],
        report=html.unescape((place / "report.html").read_text()))
  return {protocol: run(protocol) for protocol in ("honest", "paper")}


@pytest.mark.slow
def test_the_discharge_summary_flatters_the_paper_protocol(runs):
  found = {protocol: run.metrics["mortality"]["auroc"]["value"] for protocol, run in runs.items()}
  assert found["honest"] < found["paper"] - 0.1 and found["paper"] > 0.9, found


@pytest.mark.slow
def test_rows_are_those_of_the_protocol(runs):
  summary = runs["honest"].table.pattern.to_numpy() >> mimic.MODALITIES.index("discharge") & 1
  mortality = runs["honest"].table.y_mortality.notna().to_numpy()
  assert mortality.any() and not summary[mortality].any() and summary[~mortality].mean() > 0.5
  summary = runs["paper"].table.pattern.to_numpy() >> mimic.MODALITIES.index("discharge") & 1
  assert runs["paper"].table.y_mortality.notna().all() and summary.mean() > 0.5


@pytest.mark.slow
def test_each_run_ends_in_a_report_that_names_its_protocol(runs):
  assert "48 h after hospital admission" in runs["honest"].report
  assert "the paper's protocol" not in runs["honest"].report
  assert "the paper's protocol" in runs["paper"].report
  assert "known only after the patient's last row: not used" in runs["honest"].report
