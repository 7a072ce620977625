"""A sweep scores settings on validation rows, in one program where it can."""

import numpy as np
import pytest

from crl_jax import config as config_lib
from experiments import sweep


def test_settings_are_grouped_by_what_they_share(tiny_config):
  groups = sweep.grouped(tiny_config, ["", "train.joint.learning_rate=1e-3", "model.width=16",
                                       "model.width=16,model.dropout=0.4", "model.dropout=0.1"])
  assert [list(g) for g in groups] == [
      ["", "train.joint.learning_rate=1e-3", "model.dropout=0.1"],
      ["model.width=16", "model.width=16,model.dropout=0.4"]]


def test_a_sweep_scores_validation_rows_and_goes_on(tiny_config, tiny_run, quickly, tmp_path):
  settings = ["", "train.joint.learning_rate=2e-3"]
  with quickly():
    table = sweep.sweep(tiny_config, ["members.folds=2"], settings, 1, tmp_path)
    again = sweep.sweep(tiny_config, ["members.folds=2"], settings, 1, tmp_path)
  assert table.setting.tolist() == settings and table.equals(again)
  assert len(list(tmp_path.glob("*/checkpoints"))) == 1   # one program
  alone = tiny_run.table.query("role == 'val' and fold == 0")
  with quickly():
    one = sweep.sweep(tiny_config, [], [""], 1, tmp_path / "one")
  expected = sweep.scored(alone[["y_readmission", "y_mortality"]].to_numpy(),
                          alone[["p_base_readmission", "p_base_mortality"]].to_numpy(),
                          ("readmission", "mortality"))
  assert one.auroc_mortality[0] == pytest.approx(expected["auroc_mortality"], abs=1e-6)
  assert np.isfinite(table.log_loss).all()
  assert config_lib.as_dict(tiny_config)["members"]["folds"] == 1   # the caller's is untouched
