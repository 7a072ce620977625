"""Rows that do not fit the devices: read from the host's (memory-mapped) cohort while the devices
compute."""

import concurrent.futures

import jax
import numpy as np

_CHUNK_BYTES = 1 << 26   # what one transfer holds at most, unless a single step is more
_AHEAD = 2               # transfers that wait for the devices


class Stream:
  """A cohort on the host from which steps are read.

  Attributes:
    labels: (N, T) float32.
    stats: modality -> preprocessing of all folds, stacked on a leading axis, on the devices.
    prepared: what a model keeps of the training rows, likewise; None: nothing.
  """

  def __init__(self, cohort, patient, stats, prepared=None):
    """patient: (N,) int32 dense patient index."""
    self._inputs = {m: cohort.inputs[m] for m in cohort.modalities}
    self._observed, self._patient = cohort.observed, patient
    self.labels, self.stats, self.prepared = cohort.labels, stats, prepared
    self._row_bytes = sum(x[:1].nbytes for x in self._inputs.values())

  def chunks(self, order, place):
    """Yields the steps of `order` in pieces on the devices.

    Args:
      order: (members, steps, slots) int32 row indices, -1 is padding.
      place: (tree of (members, K, slots, ...)) -> tree on the devices.
    Yields:
      dict(inputs, observed, labels, patient, rows) of K steps, the same K for all of them: the last
      piece is filled up with empty steps.
    """
    members, steps, slots = order.shape
    per_step = members * slots * self._row_bytes
    size = min(steps, max(1, _CHUNK_BYTES // per_step))
    order = np.pad(order, ((0, 0), (0, -steps % size), (0, 0)), constant_values=-1)
    pieces = (order[:, start:start + size] for start in range(0, order.shape[1], size))
    with concurrent.futures.ThreadPoolExecutor(1) as reader:
      waiting = []
      try:
        for rows in pieces:
          waiting.append(reader.submit(lambda rows: place(self._read(rows)), rows))
          if len(waiting) > _AHEAD:
            yield waiting.pop(0).result()
        while waiting:
          yield waiting.pop(0).result()
      finally:
        for future in waiting:
          future.cancel()

  def _read(self, rows):
    index = np.maximum(rows, 0)
    pick = lambda x: np.asarray(x[index])
    return dict(inputs=jax.tree.map(pick, self._inputs), observed=pick(self._observed),
                labels=pick(self.labels), patient=pick(self._patient), rows=rows)
