"""Segment sums: any number of rows and cores, digits kept."""

import math
import os

import numpy as np
import pytest

from crl_jax.posthoc import segments


def _data(n, seed=0):
  rng = np.random.default_rng(seed)
  return rng.integers(0, 5, n).astype(np.int32), rng.random((2, n))


def _total(ids, values):
  return segments.total(lambda part: segments.by_id(ids[part], values[:, part], 5), len(ids))


def _plain(ids, values):
  return np.array([[math.fsum(row[ids == i]) for i in range(5)] for row in values])


@pytest.mark.parametrize("n", [0, 1, 127, 128, 1000])
def test_sums_of_all_parts_equal_plain_python(n, monkeypatch):
  monkeypatch.setattr(segments, "_PART", 128)
  data = _data(n)
  np.testing.assert_allclose(_total(*data), _plain(*data), rtol=1e-13)


def test_sums_do_not_depend_on_the_number_of_cores(monkeypatch):
  monkeypatch.setattr(segments, "_PART", 128)
  found = []
  for cores in (1, 2, 7):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid, cores=cores: set(range(cores)))
    found.append(_total(*_data(5000)))
  np.testing.assert_array_equal(found[1:], [found[0]] * 2)


def test_a_small_sum_among_many_rows_keeps_its_digits():
  x = np.where(np.arange(100_000) % 2, 1e-7, 1.0)[None]   # float32 sums would keep no digit of 1e-7
  found = _total(np.zeros(x.shape[1], np.int32), x)[0, 0]
  assert found - 50_000 == pytest.approx(50_000 * 1e-7, rel=1e-5)


def test_ids_of_any_kind_are_ranked():
  rng = np.random.default_rng(0)
  for ids in (np.arange(5, 50), rng.integers(-20, 90, 80), rng.integers(-2**62, 2**62, 80),
              rng.integers(0, 9, 80).astype(str), np.zeros(0, np.int64), np.array([7, 7, 7]),
              np.array([2**63 + 1, 2**63 + 1, 2**63], np.uint64)):
    distinct, index = segments.dense(ids)
    np.testing.assert_array_equal(distinct, np.unique(ids))
    np.testing.assert_array_equal(distinct[index], ids)


def test_count_sees_every_part(monkeypatch):
  monkeypatch.setattr(segments, "_PART", 7)
  assert segments.count(lambda x: x > 2, np.arange(20).reshape(10, 2)) == 17
