"""What enters a run: refused with a clear error, or survived and reported."""

import dataclasses
import json
import re
import traceback

import numpy as np
import pandas as pd
import pytest

from crl_jax.data import cohort as cohort_lib
from crl_jax.data.cohort import CohortError


@pytest.fixture
def cohort():
  rng, n = np.random.default_rng(0), 30
  observed = rng.random((n, 2)) < 0.6
  observed[0] = True
  inputs = {m: np.where(observed[:, [i]], rng.normal(size=(n, 3)), 0).astype(np.float32)
            for i, m in enumerate("ab")}
  labels = (rng.random((n, 2)) < 0.4).astype(np.float32)
  labels[5, 1] = np.nan
  return cohort_lib.Cohort(("a", "b"), ("readmission", "mortality"), inputs,
                           observed, labels, np.arange(n) + 2 ** 40, np.arange(n) // 2 + 2 ** 35,
                           {"sex": np.array(["f", "m"] * 15)}, {"a": list("xyz"), "b": list("uvw")})


def changed(cohort, **arrays):
  copy = lambda v: {k: x.copy() for k, x in v.items()} if isinstance(v, dict) else v.copy()
  return dataclasses.replace(cohort, **{k: copy(v) for k, v in arrays.items()})


def test_a_sound_cohort_passes(cohort):
  info = cohort_lib.validate(cohort).info
  assert info["rows"] == 30 and info["patients"] == 15


@pytest.mark.parametrize("value", [2.0, -1.0, 0.5, np.inf])
def test_labels_outside_0_1_nan_are_refused(cohort, value):
  bad = changed(cohort, labels=cohort.labels)
  bad.labels[3, 1] = value
  with pytest.raises(CohortError, match="'mortality' hold 1 "):
    cohort_lib.validate(bad)


@pytest.mark.parametrize("value", [np.inf, -np.inf, 1e31])
def test_infinite_and_huge_inputs_are_refused_by_column(cohort, value):
  bad = changed(cohort, inputs=cohort.inputs)
  bad.inputs["a"][0, 1] = value
  with pytest.raises(CohortError, match="'a'.*'y'.* 1 rows"):
    cohort_lib.validate(bad)


def test_ids_must_be_unique_int64(cohort):
  for ids in (cohort.row_id.astype(float), cohort.row_id.astype(str),
              cohort.row_id.astype(np.int32)):
    with pytest.raises(CohortError, match="row_id must be int64"):
      cohort_lib.validate(dataclasses.replace(cohort, row_id=ids))
  with pytest.raises(CohortError, match="repeats in 1 rows"):
    twice = cohort.row_id.copy()
    twice[1] = twice[0]
    cohort_lib.validate(dataclasses.replace(cohort, row_id=twice))


def test_wrong_widths_are_refused(cohort):
  with pytest.raises(CohortError, match="'b'.*never cut or padded"):
    cohort_lib.validate(
        dataclasses.replace(cohort, inputs={**cohort.inputs, "b": cohort.inputs["b"][:, :2]}))
  with pytest.raises(CohortError, match="observed must be bool"):
    cohort_lib.validate(dataclasses.replace(cohort, observed=cohort.observed.astype(int)))
  with pytest.raises(CohortError, match="no rows"):
    cohort_lib.validate(cohort.take(np.zeros(30, bool)))


@pytest.mark.parametrize("change, words", [
    (dict(features={"a": list("xyz")}), "features has ['a'], expected ['a', 'b']"),
    (dict(groups={"sex": np.array(["f"] * 29)}), "'sex' has 29 values for 30 rows"),
    (dict(references={"bayes": np.zeros((31, 2))}), "'bayes' has 31 values for 30 rows"),
])
def test_what_lacks_a_modality_or_rows_is_named(cohort, change, words):
  with pytest.raises(CohortError, match=re.escape(words)):
    cohort_lib.validate(dataclasses.replace(cohort, **change))


def test_what_is_survived_is_reported(cohort):
  odd = changed(cohort, inputs=cohort.inputs, observed=cohort.observed, labels=cohort.labels)
  odd.observed[:, 1] = False
  odd.observed[7] = False
  odd.inputs["a"][0] = 0.25
  odd.labels[:, 0] = np.nan
  text = " | ".join(cohort_lib.validate(odd).info["warnings"])
  for part in ("'b' is observed for nobody", "no modality at all",
               "one repeated value in 1 observed", "no labelled row"):
    assert part in text


@pytest.mark.parametrize("value, warned", [(0.0, True), (0.25, True), (None, False)])
@pytest.mark.parametrize("there", [1, 2, 4])
def test_a_set_of_zeros_is_seen_through_its_padding(cohort, value, warned, there):
  x = np.full((30, 4, 3), np.nan, np.float32)
  x[:, :there] = np.random.default_rng(0).normal(size=(30, there, 3)) if value is None else value
  sets = dataclasses.replace(cohort, inputs={**cohort.inputs, "b": x}, kinds={"b": "set"})
  text = " | ".join(cohort_lib.validate(sets).info["warnings"])
  seen = cohort.observed[:, 1].sum()
  assert (f"'b' holds one repeated value in {seen} observed rows" in text) == warned


def test_a_single_known_value_is_not_called_a_repeated_one(cohort):
  x = np.full((30, 3), np.nan, np.float32)
  x[:, 1] = 7
  few = dataclasses.replace(cohort, inputs={**cohort.inputs, "b": x})
  assert not any("repeated" in w for w in cohort_lib.validate(few).info["warnings"])


def test_pattern_id_counts_bits_in_modality_order():
  assert cohort_lib.pattern_id([[True, False, True], [False, True, False],
                                [False] * 3]).tolist() == [5, 2, 0]
  assert (cohort_lib.pattern_name(5, ("a", "b", "c")) == "a+c" and
          cohort_lib.pattern_name(0, ("a",)) == "none")
  assert cohort_lib.pattern_id(np.ones(62, bool)) == 2 ** 62 - 1
  with pytest.raises(CohortError):
    cohort_lib.pattern_id(np.ones(63, bool))


def test_save_and_load_round_trip(cohort, tmp_path):
  cohort_lib.save(cohort, tmp_path / "c")
  back = cohort_lib.load(tmp_path / "c")
  assert cohort_lib.fingerprint(back) == cohort_lib.fingerprint(cohort)
  assert (back.groups["sex"] == cohort.groups["sex"]).all()
  (tmp_path / "c" / "inputs.a.npy").unlink()
  with pytest.raises(CohortError, match="inputs.a.npy"):
    cohort_lib.load(tmp_path / "c")


def test_groups_may_come_from_pandas(cohort, tmp_path):
  sex = pd.Series(["f", None] * 15, dtype=object)
  cohort_lib.save(dataclasses.replace(cohort, groups={"sex": sex}), tmp_path / "c")
  assert cohort_lib.load(tmp_path / "c").groups["sex"].tolist() == ["f", "None"] * 15


@pytest.mark.parametrize("change", [dict(modalities=3), dict(arrays=[]), dict(features=None)])
def test_a_cohort_json_by_other_hands_is_refused(cohort, change, tmp_path):
  cohort_lib.save(cohort, tmp_path / "c")
  path = tmp_path / "c" / "cohort.json"
  path.write_text(json.dumps(json.loads(path.read_text()) | change))
  with pytest.raises(CohortError, match="not a complete saved cohort.*cohort.save"):
    cohort_lib.load(tmp_path / "c")


def test_what_a_damaged_file_holds_is_not_told(cohort, tmp_path):
  cohort_lib.save(cohort, tmp_path / "c")
  (tmp_path / "c" / "rows.row_id.npy").write_bytes(b"\x93NUMPY\x01\x00\x0d\x00{'ZEBRA': 1}\n")
  about = json.loads((tmp_path / "c" / "cohort.json").read_text())
  del about["sha256"]   # or the checksum would tell of it first
  (tmp_path / "c" / "cohort.json").write_text(json.dumps(about))
  with pytest.raises(CohortError, match="not a complete saved cohort") as error:
    cohort_lib.load(tmp_path / "c")
  assert "ZEBRA" not in "".join(traceback.format_exception(error.value))


def test_inputs_may_lie_on_disk_from_the_start(cohort, tmp_path):
  room = cohort_lib.on_disk(tmp_path / "c")
  inputs = {m: room(m, x.shape) for m, x in cohort.inputs.items()}
  for m, x in cohort.inputs.items():
    inputs[m][:] = x
  cohort_lib.save(dataclasses.replace(cohort, inputs=inputs), tmp_path / "c")
  back = cohort_lib.load(tmp_path / "c")
  assert cohort_lib.fingerprint(back) == cohort_lib.fingerprint(cohort)
  assert all(isinstance(x, np.memmap) for x in back.inputs.values())
  with pytest.raises(FileExistsError, match="not empty"):
    cohort_lib.save(cohort, tmp_path / "c")


def test_fingerprint_sees_every_array(cohort):
  seen = {cohort_lib.fingerprint(cohort)}
  for name in ("labels", "observed", "row_id", "patient_id"):
    other = changed(cohort, **{name: getattr(cohort, name)})
    array = getattr(other, name)
    array[-1] = 1 - array[-1] if name != "observed" else ~array[-1]
    seen.add(cohort_lib.fingerprint(other))
  assert len(seen) == 5


@pytest.mark.parametrize("name", ["", " ", "a/b", "../a", "a\\b", "a\0b", "a\nb", ".a", "x" * 300])
def test_names_that_no_file_can_have_are_refused(cohort, name):
  for change in (dict(tasks=("x", name)), dict(groups={name: cohort.groups["sex"]}),
                 dict(references={name: cohort.labels}), dict(modalities=("a", name))):
    with pytest.raises(CohortError, match="cannot be part of a file's name"):
      cohort_lib.validate(dataclasses.replace(cohort, **change))


def test_names_that_collide_are_refused(cohort):
  """p_base_death would be the final prediction of 'base_death' and the base one of 'death'."""
  two = lambda *tasks: dataclasses.replace(
      cohort, tasks=tasks, labels=np.repeat(cohort.labels[:, :1], len(tasks), 1))
  named = lambda name: dataclasses.replace(cohort, references={name: cohort.labels})
  for bad in (two("death", "base_death"), two("boosting_x", "x"), named("base"), named("logistic"),
              dataclasses.replace(two("death", "b_death"), references={"b": cohort.labels})):
    with pytest.raises(CohortError, match="the column p_.* rename that task or reference"):
      cohort_lib.validate(bad)
  with pytest.raises(CohortError, match="task names must differ; there are several of .'x'"):
    cohort_lib.validate(two("x", "x"))
  with pytest.raises(CohortError, match="modality names must differ"):
    cohort_lib.validate(dataclasses.replace(cohort, modalities=("a", "a")))
  cohort_lib.validate(two("death", "death_base"))


def test_the_refusal_says_what_a_task_and_a_kind_may_be(cohort):
  days = changed(cohort, labels=cohort.labels)
  days.labels[0, 0] = 12
  with pytest.raises(CohortError, match="a task is a yes or no.*within so many days"):
    cohort_lib.validate(days)
  image = np.zeros((30, 8, 3), np.float32)
  image[:] = np.random.default_rng(0).normal(size=image.shape)
  pictures = dataclasses.replace(cohort, inputs={**cohort.inputs, "b": image})
  with pytest.raises(CohortError, match="kinds does not say what a row of it is.*'sequence'.*'set'"):
    cohort_lib.validate(pictures)
  cohort_lib.validate(dataclasses.replace(pictures, kinds={"b": "sequence"}))


@pytest.mark.parametrize("file", ["rows.labels.npy", "inputs.a.npy", "groups.sex.npy"])
@pytest.mark.parametrize("damage", ["bit", "header", "empty"])
def test_a_damaged_array_is_refused_by_name(cohort, file, damage, tmp_path):
  cohort_lib.save(cohort, tmp_path / "c")
  path = tmp_path / "c" / file
  content = bytearray(path.read_bytes())
  if damage == "empty":
    content = b""
  else:
    content[-1 if damage == "bit" else content.index(b"}")] ^= 1
  path.write_bytes(bytes(content))
  with pytest.raises(CohortError, match=f"{file} changed on disk"):
    cohort_lib.load(tmp_path / "c")
  about = json.loads((tmp_path / "c" / "cohort.json").read_text())
  del about["sha256"]   # of a version before
  (tmp_path / "c" / "cohort.json").write_text(json.dumps(about))
  if damage != "bit":
    with pytest.raises(CohortError, match="not a complete saved cohort"):
      cohort_lib.load(tmp_path / "c")


def test_a_saved_cohort_is_private(cohort, tmp_path):
  cohort_lib.save(cohort, tmp_path / "c")
  assert (tmp_path / "c").stat().st_mode & 0o077 == 0
