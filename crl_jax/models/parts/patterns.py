"""Missingness patterns of the training rows as a table of fixed shape, and a row's place in it."""

import jax.numpy as jnp
import numpy as np


def table(observed, most=31, least=20):
  """(most, M) bool: the patterns of at least `least` rows of `observed` (n, M), most frequent first
  (of equally frequent ones the smaller first), without the empty one; then rows of False."""
  found, counts = np.unique(observed[observed.any(1)], axis=0, return_counts=True)
  order = np.argsort(-counts, kind="stable")
  chosen = found[order][counts[order] >= least][:most]
  return np.concatenate([chosen, np.zeros((most - len(chosen), observed.shape[1]), bool)])


def with_shares(lines, observed, size):
  """dict(patterns (size, M) bool, share (size,) float32): the distinct patterns `lines` and the
  share of the rows of `observed` (n, M) that have at least their modalities, in [0, 1); then False
  and -1."""
  share = [(observed | ~line).all(1).sum() / (len(observed) + 1) for line in lines]
  fill = size - len(lines)
  return dict(patterns=np.concatenate([lines, np.zeros((fill, observed.shape[1]), bool)]),
              share=np.array([*share, *[-1.0] * fill], np.float32))


def largest(table_PxM, share_P, observed_M):
  """() index of the table's largest pattern inside `observed`; of equally large ones that of more
  training rows. The table holds the empty pattern."""
  inside_P = (observed_M | ~table_PxM).all(1) & (share_P >= 0)
  return jnp.where(inside_P, table_PxM.sum(1) + share_P, -1.0).argmax()


def trained(table_PxM, share_P, observed_M, every):
  """(P,) bool, the patterns that a row teaches: its own, and those inside it: with `every` all, or
  else each of its modalities alone. Only a row without any teaches the empty pattern."""
  size_P = table_PxM.sum(1)
  own_P = (table_PxM == observed_M).all(1)
  inside_P = (observed_M | ~table_PxM).all(1) & (size_P > 0 if every else size_P == 1)
  return (own_P | inside_P) & (share_P >= 0)
