"""A study's folder belongs to its data."""

import dataclasses

import pytest

from crl_jax import config as config_lib, run
from experiments import study


def test_variants_are_kept_with_the_data_that_they_are_of(tiny_config, quickly, tmp_path,
                                                          monkeypatch):
  config = config_lib.override(tiny_config, ["train.joint.epochs=1", "evaluate.bootstrap=5",
                                             "evaluate.informative=False"])
  variants = {"Narrow": ("model.width=4",)}
  with quickly():
    first = study.tables(study.start(config, tmp_path), variants)["Narrow"]
    (tmp_path / "data.json").unlink()   # as a folder of before
    again = study.tables(study.start(config, tmp_path), variants)["Narrow"]
  assert first.equals(again) and (tmp_path / "data.json").exists()
  cohort = run.build_cohort(config)
  monkeypatch.setattr(run, "build_cohort", lambda _: dataclasses.replace(
      cohort, inputs={m: -x for m, x in cohort.inputs.items()}))
  with quickly(), pytest.raises(ValueError, match=r"other data or splits \(fingerprint differ"):
    study.start(config, tmp_path)
