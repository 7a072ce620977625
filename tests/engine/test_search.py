"""The search: patients are held out whole, the better try wins, a path ends where the loss rises.
"""

import numpy as np

from crl_jax.engine import rivals, search


def toy(losses):
  """A rival whose tries a, b, ... have a path of predictions that are wrong by losses[try][i], and
  the list of what it was asked to fit: (rows, try, point)."""
  asked = []
  def path(x, y, tried, seed):
    del seed
    for i, off in enumerate(losses[tried["a"]]):
      asked.append((len(y), tried["a"], i))
      yield dict(i=i), lambda x, off=off: np.where(x[:, 0] > 0, 1 - off, off)
  return rivals.Rival(tuple(dict(a=a) for a in losses), path, dict(i=0), None), asked


def rows(n=90):
  y = (np.arange(n) % 3 == 0).astype(np.float32)
  return y[:, None] - 0.5, y


def test_the_try_and_the_point_of_the_least_loss_are_chosen():
  rival, asked = toy({0: [0.4, 0.3, 0.35, 0.1], 1: [0.2, 0.25, 0.2], 2: [0.5]})
  x, y = rows()
  assert search.choose(rival, x, y, np.arange(90), 0) == dict(a=1, i=0)
  assert {(a, i) for _, a, i in asked} == {(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (2, 0)}


def test_an_equal_loss_does_not_end_a_path():
  rival, _ = toy({0: [0.4, 0.4, 0.4, 0.2, 0.3]})   # a penalty so strong that nothing moves
  assert search.choose(rival, *rows(), np.arange(90), 0) == dict(a=0, i=3)


def test_a_path_ends_where_going_on_is_not_worth_it():
  rival, asked = toy({0: [0.3, 0.295, 0.1]})   # 0.007 of the log-loss spared
  assert search.choose(rival, *rows(), np.arange(90), 0) == dict(a=0, i=2)
  asked.clear()
  assert search.choose(rival._replace(worth=0.01), *rows(), np.arange(90), 0) == dict(a=0, i=1)
  assert {i for _, _, i in asked} == {0, 1}


def test_a_patient_is_in_one_fold_and_those_with_the_outcome_are_spread():
  rng = np.random.default_rng(0)
  patient = rng.permutation(np.arange(200) % 40)
  y = np.isin(patient, np.arange(9)).astype(np.float32)
  fold = search.deal(y, patient, 0)
  assert all(len(set(fold[patient == one])) == 1 for one in range(40))
  assert [len(set(patient[(fold == k) & (y == 1)])) for k in range(3)] == [3, 3, 3]
  assert not np.array_equal(fold, search.deal(y, patient, 1))


def test_labels_of_a_held_out_patient_choose_nothing_of_his_own(monkeypatch):
  """What is fitted never sees the fold that it is judged on."""
  x, y = rows()
  x = np.concatenate([x, np.arange(90.)[:, None]], 1)
  patient = np.arange(90) // 2
  met = []
  def path(x, y, tried, seed):
    fitted = set(x[:, 1] // 2)
    yield {}, lambda new: met.append(fitted & set(new[:, 1] // 2)) or np.full(len(new), 0.3)
  search.choose(rivals.Rival(({},), path, {}, None), x, y, patient, 0)
  assert len(met) == 3 and not any(met)


def test_many_rows_are_compared_on_some_and_the_length_of_the_path_is_asked_of_all(monkeypatch):
  monkeypatch.setattr(search, "ROWS", 30)
  monkeypatch.setattr(search, "EVENTS", 10)
  rival, asked = toy({0: [0.4, 0.3], 1: [0.2, 0.1]})
  x, y = rows()
  assert search.choose(rival, x, y, np.arange(90), 0) == dict(a=1, i=1)
  assert [n for n, _, _ in asked].count(60) == 2   # all but a third, along the path of the best
  assert max(n for n, _, _ in asked[:-2]) < 30


def test_a_class_too_rare_to_divide_takes_what_is_usual():
  rival, asked = toy({0: [0.4, 0.3]})
  x, y = rows()
  y[:] = 0
  y[0] = 1
  assert search.choose(rival, x, y, np.arange(90), 0) == dict(a=0, i=0) and not asked


def test_rare_outcomes_are_compared_on_more_rows():
  y = np.zeros(20_000)
  y[::100] = 1
  some = search._spread(y)
  assert y[some].sum() >= search.EVENTS - 2 and len(some) == search.EVENTS * 100
