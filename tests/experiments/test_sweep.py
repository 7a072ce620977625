"""A sweep scores settings on validation rows, in one program where it can."""

import dataclasses
import pathlib
import signal
import sys

import numpy as np
import pytest

from crl_jax import config as config_lib, stopping
from crl_jax.data import sources
from experiments import paper, sweep

ROOT = pathlib.Path(__file__).parents[2]


def swept(config, common, settings, folder, stop=None):
  return sweep.sweep(config, common, settings, 1, folder, stop or stopping.Stop())


def test_settings_are_grouped_by_what_they_share(tiny_config):
  groups = sweep.grouped(tiny_config, ["", "train.joint.learning_rate=1e-3", "model.width=16",
                                       "model.width=16,model.dropout=0.4", "model.dropout=0.1"])
  assert [list(g) for g in groups] == [
      ["", "train.joint.learning_rate=1e-3", "model.dropout=0.1"],
      ["model.width=16", "model.width=16,model.dropout=0.4"]]


@pytest.mark.parametrize("setting", ["seed=1", "splits.folds=3", "data.simulate.rows=100"])
def test_settings_share_their_rows_and_splits(tiny_config, setting):
  with pytest.raises(ValueError, match=f"'{setting}' changes the rows or their splits"):
    sweep.grouped(tiny_config, ["", setting])


@pytest.mark.parametrize("module", [sweep, paper])
@pytest.mark.parametrize("config, setting, words", [
    ("configs/mimic.py", "train.btach_size=3", "Did you mean 'train.batch_size'"),
    ("configs/mimic.py", "model.layers=0", "model.layers is 0; at least 1"),
    ("configs/absent.py", "seed=0", r"configs/absent.py cannot be read \(No such file"),
    ("crl_jax/statistics/metrics.py", "seed=0", r"metrics.py defines no get_config\(\)"),
    ("README.md", "seed=0", "README.md is no Python file"),
])
def test_a_mistyped_command_ends_with_one_message(module, config, setting, words, monkeypatch,
                                                  tmp_path):
  place = tmp_path / "study"
  monkeypatch.chdir(ROOT)
  monkeypatch.setattr(sys, "argv", ["program", f"--config={config}", f"--out={place}", setting]
                      if module is sweep else
                      ["program", f"--config={config}", f"--workdir={place}", setting])
  with pytest.raises(SystemExit, match=words):
    module.main()
  assert not place.exists()


def test_a_sweep_scores_validation_rows_and_goes_on(tiny_config, tiny_run, quickly, tmp_path):
  settings = ["", "train.joint.learning_rate=2e-3"]
  with quickly():
    table = swept(tiny_config, ["members.folds=2"], settings, tmp_path)
    again = swept(tiny_config, ["members.folds=2"], settings, tmp_path)
  assert table.setting.tolist() == settings and table.equals(again)
  assert len(list(tmp_path.glob("*/checkpoints"))) == 1   # one program
  alone = tiny_run.table.query("role == 'val' and fold == 0")
  with quickly():
    one = swept(tiny_config, [], [""], tmp_path / "one")
  expected = sweep.scored(alone[["y_readmission", "y_mortality"]].to_numpy(),
                          alone[["p_base_readmission", "p_base_mortality"]].to_numpy(),
                          ("readmission", "mortality"))
  assert one.auroc_mortality[0] == pytest.approx(expected["auroc_mortality"], abs=1e-6)
  assert np.isfinite(table.log_loss).all()
  assert config_lib.as_dict(tiny_config)["members"]["folds"] == 1   # the caller's is untouched


def test_a_stopped_sweep_loses_no_epoch(tiny_config, quickly, tmp_path, sigterm_after_two):
  with quickly():
    with stopping.signals() as stop, pytest.raises(stopping.Interrupted):
      swept(tiny_config, [], [""], tmp_path / "stopped", stop)
    assert 2 <= len(sigterm_after_two) < 6 and stop() == signal.SIGTERM
    table = swept(tiny_config, [], [""], tmp_path / "stopped")
    assert sigterm_after_two == [1, 2, 3, 4, 5, 6]
    assert table.equals(swept(tiny_config, [], [""], tmp_path / "whole"))


def test_a_sweep_refuses_other_data(tiny_config, quickly, tmp_path, monkeypatch):
  cohort = sources.build_cohort(tiny_config)
  with quickly():
    swept(tiny_config, [], [""], tmp_path)
    monkeypatch.setattr(sources, "build_cohort", lambda _: dataclasses.replace(
        cohort, inputs={m: -x for m, x in cohort.inputs.items()}))
    with pytest.raises(ValueError, match="belongs to other data than"):
      swept(tiny_config, [], [""], tmp_path)
