"""Models of the zoo in one table."""

import sys

import pytest

from crl_jax import config as config_lib
from experiments import study as study_lib, zoo


@pytest.fixture(scope="module")
def made(tiny_config, quickly, tmp_path_factory):
  """(the table of two models beside the run's own, its folder, config)."""
  folder = tmp_path_factory.mktemp("zoo")
  config = config_lib.override(tiny_config, [
      "evaluate.informative=False", "evaluate.permutations=10", "train.pretrain.epochs=0",
      "train.joint.epochs=1"])
  with quickly():
    return zoo.zoo(config, folder, ["early", "lstm", "crl_mmnar"], quick=True), folder, config


def test_every_model_has_its_scores_and_costs(made):
  result, folder, config = made
  lines = {(row["task"], row["model"]): row for row in result.rows}
  assert {model for _, model in lines} == {"early", "crl_mmnar"} and len(lines) % 2 == 0
  for (task, model), row in lines.items():
    assert 0 < row["auroc_lo"] <= row["auroc"] <= row["auroc_hi"] < 1 and row["seconds"] > 0
    other = lines[task, "crl_mmnar"]
    if model == "early":
      assert row["over_crl_mmnar"] == pytest.approx(row["auroc"] - other["auroc"])
      assert row["p_holm"] >= row["p"] and row["parameters"] != other["parameters"]
    else:
      assert row["p"] is None and row["over_crl_mmnar"] is None
  text = (folder / "tables" / "zoo.md").read_text()
  assert "none was tuned" in text and "early" in text and "our reading" not in text.lower()
  assert "Left out: model 'lstm' reads a modality of the kind series" in text
  assert (folder / "tables" / "zoo.csv").exists() and (
      folder / "tables" / "zoo.svg").exists()


def test_what_is_trained_is_read_again_and_readings_are_said(made, monkeypatch):
  result, folder, config = made
  monkeypatch.setattr(study_lib, "_train", lambda *args: pytest.fail("trained twice"))
  again = zoo.zoo(config, folder, ["early", "crl_mmnar"], quick=True)
  assert again.rows == result.rows
  monkeypatch.setattr(zoo.models, "MODELS", zoo.models.MODELS | {"early": zoo.models.Entry(
      "Early (our reading)", "", "concat.build_early", zoo.models.settings.early)})
  said = zoo.compared(study_lib.start(config, folder), {
      "crl_mmnar": (), "early": ("model.name=early", "model.early.stages.alone.epochs=1")}).said
  assert "Our reading of an abstract, not a reproduction: early." in said


def test_a_model_that_is_none_is_refused_before_anything_is_trained(monkeypatch, tmp_path):
  monkeypatch.setattr(sys, "argv", ["zoo", "--config=configs/mimic.py", f"--workdir={tmp_path}",
                                    "--models=early,erly"])
  with pytest.raises(SystemExit, match="Unknown config.model.name 'erly'"):
    zoo.main()
  assert not list(tmp_path.iterdir())
