"""PolicyCohort: what it refuses, what it keeps on disk, and what inference may see of it."""

import dataclasses

import ml_collections
import numpy as np
import pytest

from crl_jax.data import cohort as cohort_lib
from crl_jax.data.cohort import CohortError
from crl_jax.policy import data


def small(n=240, seed=0, patients=None):
  """A PolicyCohort of two modalities and three annotations, some of them missing."""
  rng = np.random.default_rng(seed)
  observed = np.stack([np.ones(n, bool), rng.random(n) < 0.6], 1)
  inputs = {m: rng.standard_normal((n, w)).astype(np.float32) * observed[:, j, None]
            for j, (m, w) in enumerate({"labs": 3, "note": 5}.items())}
  ids = np.arange(n, dtype=np.int64)
  cohort = cohort_lib.Cohort(
      modalities=("labs", "note"), tasks=("outcome",), inputs=inputs, observed=observed,
      labels=np.full((n, 1), np.nan, np.float32), row_id=ids,
      patient_id=ids if patients is None else patients, groups={},
      features={m: [f"{m}_{j}" for j in range(x.shape[1])] for m, x in inputs.items()})
  annotations = rng.standard_normal((n, 3)).astype(np.float32)
  annotations[rng.random(n) < 0.3, 1] = np.nan
  annotated = np.arange(n) % 10 != 0
  annotations[~annotated] = np.nan
  treatment = (rng.random(n) < 0.5).astype(np.float32)
  return data.PolicyCohort(
      cohort, treatment, rng.standard_normal(n).astype(np.float32), annotations, annotated,
      ("age", "fever", "pulse"),
      truth={name: np.full(n, 0.5) for name in ("mu0", "mu1", "e")},
      times={"t0": np.zeros(n), "known_last": np.full(n, -1.0),
             "treated_at": np.where(treatment, 5.0, np.nan), "outcome_at": np.full(n, 9.0)},
      info={"time_zero": "entry"})


def changed(array, at, value):
  array = array.copy()
  array[at] = value
  return array


def test_what_is_right_passes_with_no_warning_of_its_own():
  p = small()
  assert data.validate(p).cohort.info["warnings"] == []
  silent = data.validate(dataclasses.replace(p, times={}, info={}))
  assert "nobody has said" in silent.cohort.info["warnings"][-1]


@pytest.mark.parametrize("change, words", [
    (lambda p: {"treatment": changed(p.treatment, 3, 2)}, "neither 0 nor 1 in 1 rows"),
    (lambda p: {"treatment": np.zeros_like(p.treatment)}, "treatment is 1 in 0 rows; at least 50"),
    (lambda p: {"outcome": changed(p.outcome, 3, np.nan)}, "outcome is not finite in 1 rows"),
    (lambda p: {"outcome": p.outcome.astype(float)}, "outcome is float64"),
    (lambda p: {"outcome_kind": "binary"}, "outcome is no binary value in 240 rows"),
    (lambda p: {"outcome_kind": "days"}, "outcome_kind is 'days'"),
    (lambda p: {"annotations": changed(p.annotations, 1, np.nan)}, "all NaN in 1 annotated rows"),
    (lambda p: {"annotations": changed(p.annotations, (1, 0), np.inf)}, "infinite in 1 rows"),
    (lambda p: {"annotations": changed(p.annotations, (slice(None), 2), np.where(
        p.annotated, 1, np.nan))}, "annotation 'pulse' has one value"),
    (lambda p: {"annotated": np.ones_like(p.annotated)}, "all NaN in 24 annotated rows"),
    (lambda p: {"annotated": changed(p.annotated, 1, False)}, "values in 1 rows"),
    (lambda p: {"names": ("age", "age", "pulse")}, "names of annotations repeat"),
    (lambda p: {"names": ("age",)}, "annotations is float32"),
    (lambda p: {"shared": (("labs", "sodium"),)}, "shared names"),
    (lambda p: {"truth": {**p.truth, "tau": p.truth["e"]}}, "truth has"),
    (lambda p: {"truth": {"mu0": p.truth["e"]}}, "needed together"),
    (lambda p: {"truth": {**p.truth, "e": np.ones(3)}}, "has shape"),
    (lambda p: {"times": {**p.times, "known_last": np.zeros(240)}}, "'known_last'. is not before"),
    (lambda p: {"times": {**p.times, "treated_at": np.full(240, -1.0)}}, "'treated_at'. is not at"),
    (lambda p: {"times": {**p.times, "outcome_at": np.full(240, 4.0)}}, "'outcome_at'. is not at"),
    (lambda p: {"times": {"treated_at": np.zeros(240)}}, "times has no t0"),
    (lambda p: {"cohort": dataclasses.replace(p.cohort, tasks=("death",))}, "tasks are")])
def test_what_is_wrong_is_named(change, words):
  p = small()
  with pytest.raises(CohortError, match=words):
    data.validate(dataclasses.replace(p, **change(p)))


def test_an_annotation_that_stands_in_phi_is_told_of_unless_it_is_said():
  p = small()
  twice = changed(p.annotations, (slice(None), 2),
                  np.where(p.annotated, p.cohort.inputs["labs"][:, 1], np.nan))
  p = dataclasses.replace(p, annotations=twice.astype(np.float32))
  (warning,) = data.validate(p).cohort.info["warnings"]
  assert "'pulse' is the feature 'labs_1' of 'labs'" in warning
  for shared in ("labs", ("labs", "labs_1")):
    assert not data.validate(dataclasses.replace(p, shared=(shared,))).cohort.info["warnings"]


def test_a_folder_keeps_everything_and_notices_a_change(tmp_path):
  p = dataclasses.replace(small(), shared=("labs", ("note", "note_1")), higher_is_better=True)
  data.save(p, tmp_path / "p")
  again = data.load(tmp_path / "p")
  assert data.fingerprint(again) == data.fingerprint(p)
  assert again.shared == p.shared and again.info == p.info and again.higher_is_better
  for name in ("treatment", "outcome"):
    other = dataclasses.replace(p, **{name: changed(getattr(p, name), 0, 7)})
    assert data.fingerprint(other) != data.fingerprint(p)
  np.save(tmp_path / "p" / "policy.outcome.npy", p.outcome + 1)
  with pytest.raises(CohortError, match="policy.outcome.npy"):
    data.load(tmp_path / "p")
  cohort_lib.save(p.cohort, tmp_path / "alone")
  with pytest.raises(CohortError, match="no complete saved|not a complete saved PolicyCohort"):
    data.load(tmp_path / "alone")
  assert len(data.phi(cohort_lib.load(tmp_path / "alone"))) == len(p)


def test_inference_sees_nothing_that_comes_later():
  seen = {field.name for field in dataclasses.fields(data.Phi)}
  assert not seen & {"treatment", "outcome", "annotations", "annotated", "truth", "labels",
                     "cohort", "times", "groups", "references", "info"}
  phi = data.phi(small())
  hidden = phi.hiding(("note",))
  assert not hidden.inputs["note"].any() and not hidden.observed[:, 1].any()
  np.testing.assert_array_equal(hidden.inputs["labs"], phi.inputs["labs"])
  np.testing.assert_array_equal(phi.take([3, 1]).row_id, [3, 1])
  with pytest.raises(CohortError, match="policy.hide names"):
    phi.hiding(("image",))


def test_patients_are_dealt_once_into_test_folds_and_validation():
  patients = np.repeat(np.arange(120), 2).astype(np.int64)
  p = small(patients=patients)
  settings = ml_collections.ConfigDict(dict(split="patients", train_share=0.5))
  rows = data.split(p, settings, 0)
  assert sorted(np.concatenate(list(rows.values()))) == list(range(240))
  assert not set(patients[rows["train"]]) & set(patients[rows["test"]])
  assert 40 <= len(rows["test"]) <= 56
  folds = data.folds(p, rows["train"], 4, 0)
  inside = patients[rows["train"]]
  assert sorted(np.concatenate([f["test"] for f in folds])) == list(range(len(inside)))
  for fold in folds:
    sets = [set(inside[fold[role]]) for role in ("train", "val", "test")]
    assert sum(map(len, sets)) == len(set(inside)) == len(set.union(*sets))
  (one,) = data.folds(p, rows["train"], 1, 0)
  assert len(one["test"]) == len(inside) and not set(inside[one["train"]]) & set(inside[one["val"]])
  assert 0.05 < len(one["val"]) / len(inside) < 0.2
  settings.split = "paper"
  with pytest.raises(CohortError, match="120 of them share a patient"):
    data.split(p, settings, 0)
  paper = data.split(small(), settings, 0)
  assert paper["test"].tolist() == list(range(216, 240)) and len(paper["train"]) == 120
  assert paper["train"].max() < 216
