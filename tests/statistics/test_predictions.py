"""The predictions table, and who corrects whom in it."""

import numpy as np
import pandas as pd
import pytest

from crl_jax import config as config_lib
from crl_jax.data.cohort import Cohort
from crl_jax.posthoc import rectifier
from crl_jax.statistics import predictions

TASKS, MODALITIES = ("a", "b"), ("first", "second")


@pytest.fixture
def cohort():
  rng, n = np.random.default_rng(0), 6
  return Cohort(
      MODALITIES, TASKS, {m: np.ones((n, 2), np.float32) for m in MODALITIES},
      rng.random((n, 2)) < 0.5,
      np.array([[0, 1], [1, np.nan], [0, 0], [np.nan, 1], [1, 1], [0, 0]], np.float32),
      np.arange(n) + 10**12, np.arange(n) // 2 + 10**13, {"sex": np.array(list("fmfmfm"))},
      {m: ("x", "y") for m in MODALITIES})


@pytest.fixture
def table():
  """Two members whose base model ignores a pattern effect of +0.2: 400 validation and 200 test
  lines each.
  """
  rng, parts = np.random.default_rng(1), []
  for fold in range(2):
    for role, n in (("val", 400), ("test", 200)):
      pattern, base = rng.integers(4, size=n), rng.uniform(0.2, 0.6, (n, 2))
      risk = base + np.where(pattern == 3, 0.3 if fold else 0.15, 0)[:, None]
      y = (rng.random((n, 2)) < risk).astype(float)
      y[rng.random((n, 2)) < 0.1] = np.nan
      ids = rng.permutation(10**6)[:n] + 10**6 * len(parts)
      parts.append(pd.DataFrame(dict(
          row_id=ids, patient_id=ids, fold=fold, seed=0, role=role, pattern=pattern,
          y_a=y[:, 0], y_b=y[:, 1], p_base_a=base[:, 0], p_base_b=base[:, 1])))
  return pd.concat(parts, ignore_index=True)


def rectify(table, **settings):
  config = config_lib.default().rectifier
  with config.unlocked():
    config.update(settings)
  return rectifier.rectify_table(table, TASKS, MODALITIES, config, 0)


def test_a_part_holds_the_rows_asked_for_in_their_order(cohort):
  rows = np.array([4, 0, 3])
  base = np.array([[0.1, 0.2], [0.3, 0.4], [0.5, 0.6]], np.float32)
  part = predictions.part(cohort, rows, 2, 1, "val", base, {"bayes": base / 2})
  assert list(part) == ["row_id", "patient_id", "fold", "seed", "role", "pattern", "group_sex",
                        "y_a", "p_base_a", "p_bayes_a", "y_b", "p_base_b", "p_bayes_b"]
  np.testing.assert_array_equal(part.row_id, cohort.row_id[rows])
  assert part.row_id.dtype == part.patient_id.dtype == np.int64
  np.testing.assert_array_equal(predictions.matrix(part, "y_", TASKS), cohort.labels[rows])
  np.testing.assert_array_equal(predictions.matrix(part, "p_base_", TASKS), base.astype(np.float64))
  np.testing.assert_array_equal(part.pattern, cohort.pattern[rows])
  assert (part.fold == 2).all() and (part.seed == 1).all() and (part.role == "val").all()


def test_a_fold_holds_each_of_its_members_or_their_average(cohort):
  rows = {"val": np.array([4, 0, 3]), "test": np.array([1])}
  base = {role: [np.full((len(r), 2), p, np.float32) for p in (0.25, 0.75)]
          for role, r in rows.items()}
  references = {role: {"bayes": np.full((len(r), 2), 0.1)} for role, r in rows.items()}
  table = predictions.of_fold(cohort, rows, 2, [5, 7], base, False, references)
  assert table.role.tolist() == 6 * ["val"] + 2 * ["test"] and (table.fold == 2).all()
  assert table.seed.tolist() == [5, 5, 5, 7, 7, 7, 5, 7]
  assert table.p_base_a.tolist() == [0.25] * 3 + [0.75] * 3 + [0.25, 0.75]
  np.testing.assert_array_equal(table.row_id, cohort.row_id[[4, 0, 3, 4, 0, 3, 1, 1]])
  table = predictions.of_fold(cohort, rows, 2, [5, 7], base, True, references)
  assert table.seed.tolist() == [0] * 4 and table.p_base_b.tolist() == [0.5] * 4
  assert table.p_bayes_a.tolist() == [0.1] * 4


def test_each_member_corrects_its_own_lines_and_new_patients_take_all_of_them(table):
  final, found = rectify(table)
  assert found["enabled"] and [(m["fold"], m["seed"]) for m in found["members"]] == [(0, 0), (1, 0)]
  applied = lambda entry: {c["pattern"]: c["applied"] for c in entry["tasks"]["a"]["cells"]}
  for fold in range(2):
    test = final[(final.fold == fold) & (final.role == "test")]
    for pattern, cell in test.groupby("pattern"):
      np.testing.assert_allclose(cell.p_a - cell.p_base_a, applied(found["members"][fold])[pattern],
                                 atol=1e-12)
  first, second, pooled = (applied(entry)[3] for entry in (*found["members"], found["pooled"]))
  assert 0.05 < first < pooled < second


def test_labels_of_test_lines_are_never_read(table):
  final, found = rectify(table)
  other = table.copy()
  test = other.role == "test"
  other.loc[test, ["y_a", "y_b"]] = 1 - other.loc[test, ["y_a", "y_b"]]
  again, refound = rectify(other)
  assert refound == found
  for column in ("p_a", "p_b"):
    np.testing.assert_array_equal(again[column], final[column])


def test_a_validation_line_is_not_corrected_by_its_own_label(table):
  final, _ = rectify(table, thresholds=(0.0,))
  val = table.index[(table.role == "val") & (table.fold == 1) & (table.pattern == 3)
                    & table.y_a.notna()]
  for line in val[:5]:
    other = table.copy()
    other.loc[line, "y_a"] = 1 - other.loc[line, "y_a"]
    again, _ = rectify(other, thresholds=(0.0,))
    assert again.p_a[line] == final.p_a[line]
    assert (again.p_a[val] != final.p_a[val]).any()   # those of other folds are
    other_member = (table.fold == 0).to_numpy()
    np.testing.assert_array_equal(again.p_a[other_member], final.p_a[other_member])


def test_switched_off_it_estimates_and_corrects_nothing(table):
  final, found = rectify(table, enabled=False)
  np.testing.assert_array_equal(final[["p_a", "p_b"]], final[["p_base_a", "p_base_b"]])
  assert not found["enabled"] and found["members"] == []
  assert (rectifier.from_dict(found["pooled"], TASKS).n.sum()
          == table[table.role == "val"][["y_a", "y_b"]].notna().sum().sum())


def test_the_order_of_the_lines_does_not_matter(table):
  final, found = rectify(table)
  mixed = table.sample(frac=1, random_state=3)
  again, refound = rectify(mixed)
  np.testing.assert_allclose(again.sort_index()[["p_a", "p_b"]], final[["p_a", "p_b"]], atol=1e-12)


def test_columns_are_added_or_take_their_place(recwarn):
  table = pd.DataFrame({"a": [1, 2], "b": [3, 4]}, index=[5, 7])
  table.attrs["said"] = 1
  new = predictions.with_columns(table, {"c": np.array([7, 8]), "a": np.array([0, 9])})
  assert list(new.columns) == ["a", "b", "c"] and new.attrs == {"said": 1}
  assert new["a"].tolist() == [0, 9] and new["c"].tolist() == [7, 8] and list(new.index) == [5, 7]
  many = predictions.with_columns(table, {f"x{i}": np.zeros(2) for i in range(200)})
  assert many.shape == (2, 202) and not recwarn.list   # pandas warns of many, one by one
