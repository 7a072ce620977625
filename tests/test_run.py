"""A whole run: its folder, its honesty, and what happens when it is repeated, changed or damaged;
test_interruptions.py stops it."""

import dataclasses
import html
import json
import shutil
import time

import filelock
import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from crl_jax import config as config_lib, files, run
from crl_jax.data import facts, mimic, sources, splits as splits_lib
from crl_jax.engine import loop, writer
from crl_jax.report import page
from crl_jax.serve import predictor

TASKS = ("readmission", "mortality")


def copy(tiny_run, tmp_path, *without):
  """A copy of the finished run that lacks some of its files."""
  folder = shutil.copytree(tiny_run.folder, tmp_path / "run")
  for name in without:
    (folder / name).unlink()
  return folder


def no_training(monkeypatch):
  def refuse(*args, **kwargs):
    raise AssertionError("something is trained")
  monkeypatch.setattr(loop, "fit", refuse)


def predictions(table, *names):
  return [table[f"{prefix}_{task}"].to_numpy() for prefix in names for task in TASKS]


# What a run leaves behind.

def test_the_run_folder_is_complete(tiny_run):
  names = {path.name for path in tiny_run.folder.iterdir()}
  assert {"config.json", "data.json", "metrics.jsonl", "events", "checkpoints",
          "predictions.parquet", "rectifier.json", "metrics.json", "report.html"} <= names
  assert not list(tiny_run.folder.rglob("*.part"))
  read = lambda name: json.loads((tiny_run.folder / name).read_text())
  assert read("config.json") == config_lib.as_dict(tiny_run.config)
  facts = read("data.json")
  assert facts["rows"] == 300 and facts["banner"] == mimic.BANNER and facts["versions"]["jax"]
  assert sum(p["rows"] for p in facts["patterns"]) == 300
  records = files.history(tiny_run.folder)
  assert [r["epoch"] for r in records] == list(range(1, 7)) and records[1]["stage"] == "joint"
  assert list((tiny_run.folder / "events" / "fold0_seed0").glob("events.out.tfevents.*"))
  assert (tiny_run.folder / "checkpoints" / "final").is_dir()
  page = (tiny_run.folder / "report.html").read_text()
  assert (html.escape(mimic.BANNER, quote=True).replace("&#x27;", "&#39;") in page
          and "<script src" not in page)
  assert mimic.BANNER in tiny_run.printed and "report.html" in tiny_run.printed


def test_the_predictions_are_the_contract_and_their_outcomes_the_cohorts(tiny_run, members_run):
  columns = ["row_id", "patient_id", "fold", "role", "pattern"]
  columns += [f"{prefix}_{task}" for prefix in ("y", "p_base", "p") for task in TASKS]
  for found in (tiny_run, members_run):
    table, cohort = found.table, sources.build_cohort(found.config)
    assert set(columns) <= set(table) and set(table.role) == {"val", "test"}
    assert not table.duplicated(["row_id", "fold", "seed"]).any()
    rows = np.searchsorted(cohort.row_id, table.row_id)
    for t, task in enumerate(TASKS):
      np.testing.assert_array_equal(table[f"y_{task}"], cohort.labels[rows, t])
    np.testing.assert_array_equal(table.pattern, cohort.pattern[rows])
    np.testing.assert_array_equal(table.patient_id, cohort.patient_id[rows])
    for p in predictions(table, "p_base", "p"):
      assert np.isfinite(p).all() and p.min() >= 0 and p.max() <= 1
  assert members_run.table.groupby(["fold", "seed"]).ngroups == 4
  by_member = members_run.table.query("role == 'test' and fold == 0").pivot(
      index="row_id", columns="seed", values="p_base_mortality")
  assert by_member.notna().all(axis=None) and not np.array_equal(by_member[0], by_member[1])


def test_an_ensemble_is_the_mean_over_the_seeds_of_a_fold(members_run, finish, tmp_path):
  config = members_run.config.copy_and_resolve_references().unlock()
  config.members.ensemble = True
  table = finish(config.lock(), tmp_path / "ensemble").table
  assert table.groupby(["fold", "seed"]).ngroups == config.members.folds
  keys = ["fold", "role", "row_id"]
  mean = members_run.table.groupby(keys)["p_base_mortality"].mean()
  np.testing.assert_allclose(table.set_index(keys)["p_base_mortality"].sort_index(), mean,
                             rtol=1e-6)


def test_metrics_are_the_contract_and_equal_scikit_learns(tiny_run, members_run):
  for found in (tiny_run, members_run):
    assert found.metrics == json.loads((found.folder / "metrics.json").read_text())
    for role, prefix in (("test", "p"), ("test_base", "p_base"), ("val", "p")):
      for task in TASKS:
        entry = found.metrics[role][task]
        rows = found.table[found.table.role == role.split("_")[0]]
        sets = [part for _, part in rows.groupby(["seed"] if role != "val" else ["fold", "seed"])]
        for name, score in (("auroc", roc_auc_score), ("auprc", average_precision_score)):
          expected = np.mean([score(part[f"y_{task}"], part[f"{prefix}_{task}"]) for part in sets])
          assert entry[name]["value"] == pytest.approx(expected, abs=1e-12)
        for name in ("auroc", "auprc", "brier", "ece"):
          assert entry[name]["lo"] <= entry[name]["value"] <= entry[name]["hi"]
        distinct = rows.drop_duplicates("row_id")
        assert (entry["n"], entry["positives"]) == (len(distinct), distinct[f"y_{task}"].sum())
  assert {"test_logistic", "test_onehot", "test_boosting", "test_forest",
          "test_bayes"} <= tiny_run.metrics.keys()
  for task in TASKS:   # what was chosen, and operating points from predicted validation rows
    assert "C" in tiny_run.metrics["yardsticks"]["chosen"]["logistic"][task][0]
    assert tiny_run.metrics["test_logistic"][task]["sensitivity"]["value"] is not None


# Honesty.

def test_permuted_test_labels_leave_every_test_prediction_as_it_is(tiny_run, finish, tmp_path,
                                                                   monkeypatch):
  cohort = sources.build_cohort(tiny_run.config)
  c = tiny_run.config
  splits = splits_lib.assign(cohort.patient_id, cohort.labels, c.splits.folds, c.splits.validation,
                             c.seed)
  test = splits.rows(0, "test")
  labels = cohort.labels.copy()
  labels[test] = 1 - labels[np.random.default_rng(0).permutation(test)]
  assert (labels != cohort.labels)[test].any(0).all()
  monkeypatch.setattr(sources, "build_cohort",
                      lambda config: dataclasses.replace(cohort, labels=labels))
  # The splits would follow the labels, which are their strata.
  monkeypatch.setattr(splits_lib, "assign", lambda *_: splits)
  other = finish(c, tmp_path / "run").table
  names = ("p_base", "p", "p_logistic", "p_onehot", "p_boosting", "p_forest")
  for before, after in zip(predictions(tiny_run.table, *names), predictions(other, *names),
                           strict=True):
    np.testing.assert_array_equal(before, after)
  assert not np.array_equal(*(t[t.role == "test"].y_mortality for t in (tiny_run.table, other)))


def test_outcomes_independent_of_everything_cannot_be_predicted(tiny_config, finish, tmp_path,
                                                                monkeypatch):
  config = config_lib.override(tiny_config, ["members.folds=3"])
  cohort = sources.build_cohort(config)
  labels = (np.random.default_rng(7).random(cohort.labels.shape) < 0.4).astype(np.float32)
  monkeypatch.setattr(sources, "build_cohort",
                      lambda _: dataclasses.replace(cohort, labels=labels, references={}))
  metrics = finish(config, tmp_path / "run").metrics
  for task in TASKS:
    auroc = metrics["test"][task]["auroc"]
    assert auroc["lo"] <= 0.5 <= auroc["hi"] and abs(auroc["value"] - 0.5) < 0.15


def test_the_rectifier_changes_no_ranking_within_a_pattern(members_run):
  table = members_run.table[members_run.table.role == "test"]
  moved = 0
  for _, cell in table.groupby(["fold", "seed", "pattern"]):
    for base, final in zip(predictions(cell, "p_base"), predictions(cell, "p")):
      order = np.argsort(base)
      assert (np.diff(final[order]) >= 0).all()
      inside = (final > 0) & (final < 1)
      assert np.ptp((final - base)[inside], axis=0) < 1e-12 if inside.any() else True
      moved += not np.array_equal(base, final)
  assert moved   # or the test says nothing


def test_one_seed_gives_the_same_bits_and_another_seed_others(tiny_run, tiny_config, finish,
                                                              tmp_path):
  again = finish(tiny_run.config, tmp_path / "again")
  pd.testing.assert_frame_equal(again.table, tiny_run.table, check_exact=True)
  assert again.metrics == tiny_run.metrics
  other = finish(config_lib.override(tiny_config, ["seed=1"]), tmp_path / "other")
  assert not np.array_equal(other.table.p_base_mortality, tiny_run.table.p_base_mortality)


# The same folder again.

def test_a_finished_run_prints_its_table_and_trains_nothing(tiny_run, finish, monkeypatch):
  no_training(monkeypatch)
  before = {path: path.stat().st_mtime_ns for path in tiny_run.folder.rglob("*") if path.is_file()}
  again = finish(tiny_run.config, tiny_run.folder)
  assert ("finished" in again.printed and "MORTALITY" in again.printed
          and again.metrics == tiny_run.metrics)
  assert before == {path: path.stat().st_mtime_ns
                    for path in tiny_run.folder.rglob("*") if path.is_file()
                    } | {tiny_run.folder / ".lock": before[tiny_run.folder / ".lock"]}


def test_another_config_is_refused_with_the_keys_that_differ(tiny_run, monkeypatch):
  no_training(monkeypatch)
  other = config_lib.override(tiny_run.config, ["train.batch_size=16", "model.dropout=0.5"])
  with pytest.raises(ValueError, match="another config") as error:
    run.run(other, tiny_run.folder)
  assert ("train.batch_size: 32 -> 16" in str(error.value)
          and "model.dropout: 0.2 -> 0.5" in str(error.value))


def test_another_config_is_refused_before_the_run_is_finished(tiny_run, tmp_path, monkeypatch):
  no_training(monkeypatch)
  folder = copy(tiny_run, tmp_path, "metrics.json")
  with pytest.raises(ValueError, match=r"another config:\n  train.batch_size: 32 -> 16\nRun with"):
    run.run(config_lib.override(tiny_run.config, ["train.batch_size=16"]), folder)


def test_a_workdir_that_cannot_be_written_is_refused_by_name(tiny_config, tmp_path):
  (tmp_path / "file").write_text("kept")
  for place in (tmp_path / "file", tmp_path / "file" / "run"):
    with pytest.raises(OSError, match=f"{place} is no folder that can be written .*name another"):
      run.run(tiny_config, place)
  assert (tmp_path / "file").read_text() == "kept"


@pytest.mark.parametrize("name", ["config.json", "data.json", "rectifier.json", "metrics.json",
                                  "predictions.parquet", "checkpoints/final"])
def test_what_is_damaged_is_made_again_as_the_error_says(name, tiny_run, tmp_path, monkeypatch,
                                                         finish):
  monkeypatch.setattr(writer.Writer, "write", lambda *_: pytest.fail("an epoch is trained again"))
  folder = copy(tiny_run, tmp_path)
  path = folder / name
  if path.is_dir():
    shutil.rmtree(path)
    with pytest.raises(OSError, match="no final parameters: delete its metrics.json and run"):
      predictor.load(folder)
  else:
    path.write_bytes(b"{")
    with pytest.raises(OSError, match=f"{name} is absent or damaged.*Delete {name}.*run the same"):
      page.rebuild(folder)
    path.unlink()
  (folder / "metrics.json").unlink(missing_ok=True)
  assert finish(tiny_run.config, folder).metrics == tiny_run.metrics
  assert predictor.load(folder).members == 1 and not page.rebuild(folder)


def test_other_data_or_splits_are_refused(tiny_run, tmp_path, monkeypatch, finish):
  no_training(monkeypatch)
  folder = copy(tiny_run, tmp_path, "metrics.json")
  cohort = sources.build_cohort(tiny_run.config)
  with monkeypatch.context() as patch:
    x = cohort.inputs["structured"].copy()
    x[5, 1] += 1e-3
    patch.setattr(sources, "build_cohort", lambda _: dataclasses.replace(
        cohort, inputs=cohort.inputs | {"structured": x}))
    with pytest.raises(ValueError, match=r"\(fingerprint in data.json") as error:
      finish(tiny_run.config, folder)
    assert [line.strip() for line in str(error.value).splitlines()[1:-1]] == [
        "inputs of structured: other values"]
    patch.setattr(sources, "build_cohort", lambda _: cohort.take(np.arange(299)))
    with pytest.raises(ValueError, match=r"\n  labelled.mortality.n: 300 -> 299\n") as error:
      finish(tiny_run.config, folder)
    assert "observed.structured: 300 -> 299" in str(error.value)
  splits = splits_lib.assign(cohort.patient_id, cohort.labels, 5, 0.15, 99)
  monkeypatch.setattr(splits_lib, "assign", lambda *_: splits)
  versions = facts._versions()
  monkeypatch.setattr(facts, "_versions", lambda: versions | {"jax": "0.0"})
  with pytest.raises(ValueError, match=r"\(splits_fingerprint in data.json") as error:
    finish(tiny_run.config, folder)
  lines = [line.strip() for line in str(error.value).splitlines()[1:-1]]
  assert lines[0].startswith("versions.jax: ") and lines[1:] == [
      f"{role} rows of fold {k}: other values" for k in range(5) for role in ("val", "test")]


def test_a_crashed_evaluation_is_gone_on_with_by_another(tiny_run, finish, tmp_path, monkeypatch):
  """Of settings that change nothing that is trained, others are taken; nothing is trained again."""
  folder = copy(tiny_run, tmp_path, "metrics.json", "predictions.parquet")
  monkeypatch.setattr(writer.Writer, "write", lambda *_: pytest.fail("an epoch is trained again"))
  free = ["evaluate.yardsticks=False", "evaluate.bootstrap=20", "checkpoint.every_epochs=2",
          "train.data=streamed", "train.resident_gb=1.0", "data.cache=", "data.memory_limit=8GB",
          f"data.spill={tmp_path}", f"text.cache={tmp_path}", "platform=cpu"]
  again = finish(config_lib.override(tiny_run.config, free), folder)
  names = ("p_base", "p")
  for before, after in zip(predictions(tiny_run.table, *names), predictions(again.table, *names)):
    np.testing.assert_allclose(after, before, atol=1e-5)
  assert "test_logistic" not in again.metrics
  assert json.loads((folder / "config.json").read_text())["evaluate"]["bootstrap"] == 20


def test_a_finished_run_is_not_shown_for_another_evaluation(tiny_run, finish, tmp_path):
  folder = copy(tiny_run, tmp_path)
  other = config_lib.override(tiny_run.config, ["evaluate.bootstrap=20"])
  with pytest.raises(ValueError, match="evaluate.bootstrap: 50 -> 20\n.*delete its metrics.json"):
    run.run(other, folder)
  kept = (folder / "config.json").read_text()
  saved_less = config_lib.override(tiny_run.config, ["checkpoint.every_epochs=2"])
  assert finish(saved_less, folder).metrics == tiny_run.metrics
  assert (folder / "config.json").read_text() == kept
  (folder / "metrics.json").unlink()
  (folder / "explain.svg").write_text("of the old report")   # or the new one counts as explained
  again = finish(other, folder).metrics
  assert not (folder / "explain.svg").exists()
  auroc = lambda metrics: metrics["test"]["mortality"]["auroc"]
  assert auroc(again)["value"] == auroc(tiny_run.metrics)["value"]
  assert auroc(again)["lo"] != auroc(tiny_run.metrics)["lo"]


def test_a_folder_in_which_nothing_was_trained_takes_another_config(tiny_config, finish, tmp_path,
                                                                    monkeypatch):
  wrong = tiny_config.copy_and_resolve_references().unlock()
  wrong.model.name = "nothing"
  with pytest.raises(ValueError, match="model.name 'nothing'"):
    run.run(wrong, tmp_path)
  def stop(*args, **kwargs):
    raise InterruptedError("far enough")
  monkeypatch.setattr(loop, "fit", stop)
  with pytest.raises(InterruptedError):
    finish(config_lib.override(tiny_config, ["seed=3"]), tmp_path)
  assert json.loads((tmp_path / "config.json").read_text())["seed"] == 3


def test_a_damaged_newest_checkpoint_is_passed_over_and_the_numbers_stay(tiny_run, finish, tmp_path,
                                                                         caplog):
  folder = copy(tiny_run, tmp_path, "metrics.json", "predictions.parquet")
  steps = sorted(int(p.stem) for p in (folder / "checkpoints").glob("*.json"))
  assert len(steps) == 2
  for file in (folder / "checkpoints" / str(steps[-1])).rglob("*"):
    if file.is_file() and file.stat().st_size:
      file.write_bytes(file.read_bytes()[:-1] + b"!")
  with (folder / "metrics.jsonl").open("a") as file:
    file.write('{"member": "fold0_seed0", "stage": "joint", "epo')   # a line cut short by a kill
  again = finish(tiny_run.config, folder)
  pd.testing.assert_frame_equal(again.table, tiny_run.table, check_exact=True)
  assert "damaged" in caplog.text
  strip = lambda folder: [{k: v for k, v in r.items() if k != "seconds"}
                          for r in files.history(folder)]
  assert strip(folder) == strip(tiny_run.folder)


def test_with_every_checkpoint_damaged_it_says_what_to_delete(tiny_run, finish, tmp_path):
  folder = copy(tiny_run, tmp_path, "metrics.json")
  for file in (folder / "checkpoints").rglob("*/d/*"):
    file.write_bytes(b"")
  with pytest.raises(OSError, match="delete that folder"):
    finish(tiny_run.config, folder)


def test_a_locked_folder_is_refused_at_once(tiny_run):
  with filelock.FileLock(str(tiny_run.folder / ".lock")):
    start = time.monotonic()
    with pytest.raises(RuntimeError, match="Another process"):
      run.run(tiny_run.config, tiny_run.folder)
    assert time.monotonic() - start < 2


def test_an_unknown_cohort_is_named(tiny_config, tmp_path, finish):
  with pytest.raises(ValueError, match="data.cohort 'nowhere'"):
    finish(config_lib.override(tiny_config, ["data.cohort=nowhere"]), tmp_path)
  with pytest.raises(ValueError, match="data.cohort 'cohort'"):   # a module without build()
    finish(config_lib.override(tiny_config, ["data.cohort=cohort"]), tmp_path)


def test_the_default_folder_follows_the_values_of_the_config(tiny_config):
  same, other = (config_lib.override(tiny_config, [f"seed={seed}"]) for seed in (0, 1))
  assert run.default_workdir(same, "mimic") == run.default_workdir(tiny_config, "mimic")
  assert run.default_workdir(other, "mimic") != run.default_workdir(tiny_config, "mimic")
