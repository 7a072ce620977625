"""Segment sums: any ids, any number of rows, one compilation, digits kept."""

import math

import jax
import numpy as np
import pytest

from crl_jax.posthoc import segments


def _terms(xp, x, group, shift):
  """Two values, x and (x + shift)^2, of rows (n, 2) whose NaN count in nothing."""
  x = xp.where(xp.isnan(x), 0, x)
  ids = group[:, None] * 2 + xp.arange(2, dtype=np.int32)[None]
  return ids, xp.stack([x, xp.where(x == 0, 0, (x + shift[group][:, None])**2)], -1)


def _data(n, seed=0):
  rng = np.random.default_rng(seed)
  x = rng.random((n, 2))
  x[rng.random((n, 2)) < 0.1] = np.nan
  return x, rng.integers(0, 5, n).astype(np.int32), rng.random(5)


def _total(x, group, shift):
  return segments.total(_terms, (x, group), (np.nan, 0), (shift,), 10)


@pytest.fixture
def compiled(monkeypatch):
  """Every sum is the compiled program's, in chunks of 128 rows."""
  monkeypatch.setattr(segments, "_MANY", 0)
  monkeypatch.setattr(segments, "_CHUNK", 128)
  segments._compiled.clear_cache()


def _plain(x, group, shift):
  cells = {(g, t): [] for g in range(5) for t in range(2)}
  for row, g in zip(x, group):
    for t in range(2):
      if not np.isnan(row[t]):
        cells[g, t].append(row[t])
  return np.array([[math.fsum(v), math.fsum((a + shift[g])**2 for a in v)]
                   for (g, _), v in cells.items()])


def test_few_rows_equal_plain_python():
  data = _data(300)
  np.testing.assert_allclose(_total(*data), _plain(*data), rtol=1e-13)


@pytest.mark.parametrize("n", [1, 127, 128, 1000])
def test_many_rows_equal_plain_python(n, compiled):
  data = _data(n)
  np.testing.assert_allclose(_total(*data), _plain(*data), rtol=1e-13)


def test_one_compilation_for_any_number_of_rows(compiled):
  for n in (100, 128, 1000, 1001):
    _total(*_data(n))
  assert segments._compiled._cache_size() == 1


def test_float64_is_not_left_switched_on(compiled):
  _total(*_data(200))
  assert jax.numpy.zeros(1).dtype == np.float32


def test_a_small_sum_among_many_rows_keeps_its_digits(compiled, monkeypatch):
  monkeypatch.setattr(segments, "_CHUNK", 1 << 14)
  x = np.where(np.arange(100_000) % 2, 1e-7, -1.0)[:, None].repeat(2, 1)
  x[::2] *= -1   # ones and 1e-7 alternate: float32 sums would keep none of the small ones' digits
  found = _total(x, np.zeros(len(x), np.int32), np.zeros(5))[0, 0]
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
  monkeypatch.setattr(segments, "_CHUNK", 7)
  assert segments.count(lambda x: x > 2, np.arange(20).reshape(10, 2)) == 17
