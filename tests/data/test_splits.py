"""Splits: one role per patient and member, stratified, reproducible."""

import numpy as np
import pytest

from crl_jax.data import splits
from crl_jax.data.cohort import CohortError


@pytest.fixture
def patients():
  rng = np.random.default_rng(0)
  patient = rng.integers(0, 500, 900) + 2 ** 40
  labels = (rng.random((900, 2)) < (0.1, 0.3)).astype(np.float32)
  labels[rng.random((900, 2)) < 0.3] = np.nan
  return patient, labels


def test_a_patient_never_has_two_roles(patients):
  found = splits.assign(*patients, 5, 0.15, seed=3)
  for k in range(5):
    roles = [set(patients[0][found.rows(k, role)]) for role in splits.ROLES]
    assert not roles[0] & roles[1] and not roles[0] & roles[2] and not roles[1] & roles[2]
    assert sum(len(found.rows(k, role)) for role in splits.ROLES) == 900
  tests = np.concatenate([found.rows(k, "test") for k in range(5)])
  assert sorted(tests) == list(range(900))


def test_stratified_and_of_the_stated_sizes(patients):
  found = splits.assign(*patients, 5, 0.15, seed=3)
  n = len(np.unique(patients[0]))
  for k in range(5):
    sizes = [len(np.unique(patients[0][found.rows(k, role)])) / n for role in splits.ROLES]
    assert sizes == pytest.approx([0.68, 0.12, 0.2], abs=0.01)
    for t in range(2):
      ever = np.unique(patients[0][patients[1][:, t] == 1])
      share = np.isin(ever, patients[0][found.rows(k, "test")]).mean()
      # each fold has its fifth of the patients with the outcome
      assert share == pytest.approx(0.2, abs=0.04)


def test_validation_has_its_share_of_every_set_of_outcomes(patients):
  """Of the patients who ever had, never had and never could have each outcome, within one
  patient."""
  who, labels = patients
  state = {p: tuple(np.nan_to_num(labels[who == p], nan=-1).max(axis=0)) for p in np.unique(who)}
  assert len(set(state.values())) == 9
  for seed in range(3):
    found = splits.assign(who, labels, 5, 0.15, seed)
    for k in range(5):
      train, val = ([state[p] for p in np.unique(who[found.rows(k, role)])]
                    for role in ("train", "val"))
      for outcomes in set(state.values()):
        held, kept = val.count(outcomes), train.count(outcomes)
        assert abs(held - 0.15 * (held + kept)) < 1


def test_validation_has_the_rate_of_training(patients):
  """Of a cohort's one outcome, within one patient."""
  who, labels = patients[0], patients[1][:, :1]
  had = np.unique(who[labels[:, 0] == 1])
  for seed in range(3):
    found = splits.assign(who, labels, 5, 0.15, seed)
    for k in range(5):
      train, val = (np.isin(np.unique(who[found.rows(k, role)]), had) for role in ("train", "val"))
      assert abs(val.sum() - train.mean() * len(val)) <= 1


def test_a_function_of_the_seed(patients):
  prints = [splits.assign(*patients, 5, 0.15, seed).fingerprint() for seed in (1, 1, 2)]
  assert prints[0] == prints[1] != prints[2]


def test_altered_splits_and_empty_roles_are_refused(patients):
  found = splits.assign(*patients, 5, 0.15, seed=0)
  twice = np.flatnonzero(patients[0] == patients[0][0])
  assert len(twice) > 1
  found.fold[twice[0]] = (found.fold[twice[0]] + 1) % 5
  with pytest.raises(CohortError, match="two roles"):
    splits.check(found, patients[0])
  with pytest.raises(CohortError, match="too few"):
    splits.assign(np.arange(3), np.zeros((3, 1)), 5, 0.15, seed=0)
