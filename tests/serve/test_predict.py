"""Predicting new patients: the same numbers as the run, any missing modality, and refusals that
write and leak nothing.
"""

import dataclasses
import json
import logging
import shutil
import types

import numpy as np
import pandas as pd
import pytest

from crl_jax import config as config_lib, predict as command
from crl_jax.data import cohort as cohort_lib, sources
from crl_jax.posthoc import rectifier
from crl_jax.serve import predict, predictor
from crl_jax.statistics import conformal

TASKS = ("readmission", "mortality")
MARK = 987_654_321_000   # begins every id of a new patient: no message may hold it


@pytest.fixture(scope="module")
def new(tiny_config):
  """120 other patients of the same world."""
  cohort = sources.build_cohort(config_lib.override(tiny_config, ["seed=5",
                                                                  "data.simulate.rows=120"]))
  return dataclasses.replace(cohort, row_id=cohort.row_id + MARK,
                             patient_id=cohort.patient_id + MARK)


@pytest.fixture
def told(capsys, caplog):
  """told(): all that was printed and logged since the last call; it holds no id of a patient."""
  caplog.set_level(logging.INFO)
  def text():
    captured = capsys.readouterr()
    whole = captured.out + captured.err + caplog.text
    caplog.clear()
    assert str(MARK)[:8] not in whole
    return whole
  yield text
  text()


@pytest.fixture
def predicted(quickly, tmp_path):
  """predicted(run, cohort) -> table of the file written."""
  def table(finished, cohort):
    shutil.rmtree(tmp_path / "data", ignore_errors=True)
    cohort_lib.save(cohort, tmp_path / "data")
    with quickly():
      command.main(types.SimpleNamespace(workdir=finished.folder, data_root=tmp_path / "data",
                                         output=tmp_path / "out" / "new.parquet"))
    assert not list((tmp_path / "out").glob("*.part"))
    return pd.read_parquet(tmp_path / "out" / "new.parquet")
  return table


@pytest.fixture
def refused(predicted, tmp_path, told):
  """refused(run, cohort) -> the message of the refusal, after which there is no file."""
  def message(finished, cohort):
    with pytest.raises((ValueError, OSError)) as error:
      predicted(finished, cohort)
    assert not (tmp_path / "out").exists() and str(MARK)[:8] not in str(error.value)
    return str(error.value)
  return message


def hide(cohort, modalities, rows=slice(None)):
  """The cohort with `modalities` unobserved in `rows`."""
  observed, inputs = cohort.observed.copy(), {m: x.copy() for m, x in cohort.inputs.items()}
  for m in modalities:
    observed[rows, cohort.modalities.index(m)] = False
    inputs[m][rows] = 0
  return dataclasses.replace(cohort, observed=observed, inputs=inputs)


def probabilities(table, prefix="p_"):
  return table[[prefix + task for task in TASKS]].to_numpy()


def test_the_file_has_its_columns_and_one_line_a_row(members_run, new, predicted, told):
  table = predicted(members_run, new)
  columns = ["row_id", "patient_id", "pattern", "unseen_pattern"]
  columns += [f"{prefix}_{task}" for prefix in ("y", "p_base", "p") for task in TASKS]
  assert set(columns) <= set(table) and not {"fold", "seed", "role"} & set(table)
  np.testing.assert_array_equal(table.row_id, new.row_id)
  np.testing.assert_array_equal(table[["y_readmission", "y_mortality"]], new.labels)
  text = told()
  assert "120 rows, members averaged: 4" in text and "MORTALITY: 120 test rows" in text
  assert "the run's own patients" not in text


def test_members_are_averaged_and_then_corrected_by_the_pooled_rectifier(members_run, new,
                                                                         predicted):
  table = predicted(members_run, new)
  found = predictor.read_run(members_run.folder)[-1]
  base = probabilities(table, "p_base_")
  expected = rectifier.apply(rectifier.from_dict(found["pooled"], TASKS), base, new.pattern)
  np.testing.assert_allclose(probabilities(table), expected, atol=1e-6)
  assert not np.array_equal(probabilities(table), base)


def test_the_runs_own_test_rows_get_the_runs_own_numbers(tiny_run, predicted, told):
  cohort = sources.build_cohort(tiny_run.config)
  expected = tiny_run.table[tiny_run.table.role == "test"]
  rows = np.searchsorted(cohort.row_id, expected.row_id)
  alone = predicted(tiny_run, cohort.take(rows))
  n = len(rows)
  assert f"{n} of {n} rows have the patient_id of one of the run's own patients" in told()
  others = predicted(tiny_run, cohort).set_index("row_id").loc[expected.row_id]
  # another program, other batches: other sums of floats
  for prefix in ("p_base_", "p_", "p_logistic_", "p_boosting_", "p_pool_", "p_stack_",
                 "p_calibrated_", "p_chosen_"):
    for found in (alone, others):
      np.testing.assert_allclose(probabilities(found, prefix), probabilities(expected, prefix),
                                 atol=1e-6)


def test_sets_of_new_patients_are_calibrated_on_the_runs_validation_rows(tiny_run, new, predicted,
                                                                         told):
  table = predicted(tiny_run, new)
  val = tiny_run.table[tiny_run.table.role == "val"]
  score = np.abs(1 - val[val.y_mortality == 1].p_base_mortality.to_numpy())   # one row a patient
  expected = [(1 + (score >= s - 1e-12).sum()) / (1 + len(score))
              for s in 1 - table.p_base_mortality]
  assert (table.pattern.value_counts() < 30).any() and tiny_run.config.evaluate.by_class
  merged = conformal.of_new(tiny_run.table, table.assign(role="test"), TASKS, config_lib.override(
      tiny_run.config, ["evaluate.calibrate=100000"]).evaluate)
  np.testing.assert_allclose(merged.conformal_mortality_1, expected)
  assert table.conformal_mortality_1.between(0, 1, inclusive="right").all()


def test_a_run_from_before_the_headline_predicts_as_it_did(tiny_run, new, predicted, tmp_path,
                                                           told):
  now = predicted(tiny_run, new)
  assert "headline" in told()
  folder = shutil.copytree(tiny_run.folder, tmp_path / "run")
  for name in ("headline.json", "yardsticks.npz", "manifest.json"):
    (folder / name).unlink()
  facts, config = (json.loads((folder / name).read_text()) for name in ("data.json", "config.json"))
  facts["versions"]["crl_jax"] = "0.1.0"
  del config["headline"]
  for name, tree in (("data.json", facts), ("config.json", config)):
    (folder / name).write_text(json.dumps(tree))
  old = predicted(dataclasses.make_dataclass("Run", ["folder"])(folder), new)
  assert "headline" not in told() and "p_chosen_mortality" not in old
  np.testing.assert_array_equal(probabilities(old), probabilities(now))


def test_a_pattern_that_training_never_saw_is_flagged_and_finite(tiny_run, new, predicted, told):
  # Without a modality which every training row has.
  table = predicted(tiny_run, hide(new, ["structured"], slice(0, 30)))
  assert table.unseen_pattern[:30].all() and not table.unseen_pattern[30:].any()
  assert np.isfinite(probabilities(table)).all()
  assert "30 of 120 rows have a pattern that training never saw" in told()


@pytest.mark.parametrize("modalities", [["structured"], ["image"], ["discharge"],
                                        ["structured", "image", "discharge"]])
def test_any_modality_may_be_missing_for_everyone(tiny_run, new, predicted, modalities, told):
  table = predicted(tiny_run, hide(new, modalities))
  p = probabilities(table)
  assert len(table) == 120 and np.isfinite(p).all() and p.min() >= 0 and p.max() <= 1


def test_missing_features_are_imputed(tiny_run, new, predicted, told):
  x = new.inputs["structured"].copy()
  x[:, 2] = np.nan
  table = predicted(tiny_run, dataclasses.replace(new, inputs=new.inputs | {"structured": x}))
  assert np.isfinite(probabilities(table)).all()


def test_without_outcomes_there_are_predictions_and_no_metrics(tiny_run, new, predicted, told):
  known = predicted(tiny_run, new)
  told()
  table = predicted(tiny_run, dataclasses.replace(new, labels=np.full_like(new.labels, np.nan)))
  text = told()
  assert "No outcome is known" in text and "AUROC" not in text
  np.testing.assert_array_equal(probabilities(table), probabilities(known))   # outcomes never enter
  assert table.y_mortality.isna().all()


def test_one_task_without_outcomes_has_a_reason_instead_of_metrics(tiny_run, new, predicted, told):
  labels = new.labels.copy()
  labels[:, 0] = np.nan
  predicted(tiny_run, dataclasses.replace(new, labels=labels))
  text = told()
  assert ("READMISSION: 0 test rows" in text and "no row with this outcome" in text
          and "MORTALITY: 120" in text)


def test_a_modality_in_other_units_is_warned_of_by_feature(tiny_run, new, predicted, told):
  x = new.inputs["structured"].copy()
  x[:, 1] *= 100
  table = predicted(tiny_run, dataclasses.replace(new, inputs=new.inputs | {"structured": x}))
  text = told()
  assert "far outside the training range in these features (1)" in text
  assert "'structured_1' of 'structured'" in text and "structured_0" not in text
  assert np.isfinite(probabilities(table)).all()
  predicted(tiny_run, new)
  assert "far outside" not in told()


def test_other_features_modalities_and_tasks_are_refused_by_name(tiny_run, new, refused):
  names = dict(new.features)
  message = refused(tiny_run, dataclasses.replace(
      new, features=names | {"image": ["pixel", *names["image"][1:]]}))
  assert "features of 'image'" in message and "['pixel']" in message and "['image_0']" in message
  message = refused(tiny_run, dataclasses.replace(
      new, features=names | {"image": names["image"][::-1]}))
  assert "features of 'image'" in message and "another order" in message
  wider = dataclasses.replace(
      new, features=names | {"structured": [*names["structured"], "weight"]},
      inputs=new.inputs | {"structured": np.pad(new.inputs["structured"], ((0, 0), (0, 1)))})
  assert "['weight']" in refused(tiny_run, wider)
  extra = dataclasses.replace(
      new, modalities=(*new.modalities, "audio"),
      inputs=new.inputs | {"audio": new.inputs["image"]},
      features=names | {"audio": names["image"]},
      observed=np.pad(new.observed, ((0, 0), (0, 1))))
  message = refused(tiny_run, extra)
  assert "modalities" in message and "['audio']" in message
  message = refused(tiny_run, dataclasses.replace(new, tasks=("readmission", "sepsis")))
  assert "tasks" in message and "['sepsis']" in message and "['mortality']" in message


def test_data_that_could_not_have_trained_is_refused(tiny_run, new, refused):
  x = new.inputs["structured"].copy()
  x[3, 0] = np.inf
  assert "column 'structured_0'" in refused(
      tiny_run, dataclasses.replace(new, inputs=new.inputs | {"structured": x}))
  assert "row_id repeats" in refused(
      tiny_run, dataclasses.replace(new, row_id=np.zeros_like(new.row_id) + MARK))


def test_unfinished_runs_and_wrong_paths_are_refused(tiny_run, new, refused, tmp_path, quickly):
  folder = shutil.copytree(tiny_run.folder, tmp_path / "run")
  copied = dataclasses.make_dataclass("Run", ["folder"])(folder)
  shutil.rmtree(folder / "checkpoints" / "final")
  assert "no final parameters" in refused(copied, new)
  (folder / "metrics.json").unlink()
  assert "not a finished run" in refused(copied, new)
  with pytest.raises(OSError, match="is no folder"):
    predict.predict(tiny_run.folder, tmp_path / "absent", tmp_path / "new.parquet")
  with pytest.raises(ValueError, match=".parquet"):
    predict.predict(tiny_run.folder, tmp_path / "data", tmp_path / "new.csv")
  (tmp_path / "data" / "cohort.json").write_text("{}")
  with pytest.raises(cohort_lib.CohortError, match="not a complete saved cohort"):
    predict.predict(tiny_run.folder, tmp_path / "data", tmp_path / "new.parquet")
  assert not (tmp_path / "new.parquet").exists()
