"""A study's folder belongs to its data; a stop loses no epoch of a variant."""

import dataclasses

import pytest

from crl_jax import config as config_lib, stopping
from crl_jax.data import sources
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
  cohort = sources.build_cohort(config)
  monkeypatch.setattr(sources, "build_cohort", lambda _: dataclasses.replace(
      cohort, inputs={m: -x for m, x in cohort.inputs.items()}))
  with quickly(), pytest.raises(ValueError, match=r"other data or splits \(fingerprint differ"):
    study.start(config, tmp_path)


def test_a_stopped_variant_loses_no_epoch(tiny_config, quickly, tmp_path, request):
  config = config_lib.override(tiny_config, ["checkpoint.every_epochs=9", "evaluate.bootstrap=5",
                                             "evaluate.informative=False"])
  with quickly():
    begun = study.start(config, tmp_path)
    epochs = request.getfixturevalue("sigterm_after_two")   # of the variant, not of the run
    with stopping.signals() as stop, pytest.raises(stopping.Interrupted):
      study.tables(dataclasses.replace(begun, stop=stop), {"Narrow": ("model.width=4",)})
    assert 2 <= len(epochs) < 6
    study.tables(begun, {"Narrow": ("model.width=4",)})
  assert epochs == [1, 2, 3, 4, 5, 6]
