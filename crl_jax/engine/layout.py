"""How a run spreads over devices: one global program over a mesh, or a replica per device (pmap).

The mesh has two axes: `member` (whole members on different devices) and `data` (a batch's rows on
different devices). Both kinds of program see the same global batch in the same slots, so their
numbers agree up to the order of summation.
"""

import dataclasses

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

DATA = "data"
MEMBER = "member"


@dataclasses.dataclass(frozen=True)
class Layout:
  """Where members and rows live.

  Attributes:
    mesh: axes (member, data).
    pmap: True where programs run as a replica per device; then all devices are on `data`.
  """
  mesh: Mesh
  pmap: bool

  @property
  def axis(self):
    """Name of the device axis in a per-device program; None in a global one."""
    return DATA if self.pmap else None

  def slots(self, batch_size, parts=1):
    """The batch size rounded up so that each of the devices that share a batch can cut its rows
    into `parts` equal ones; the extra slots hold padding."""
    share = self.mesh.shape[DATA] * parts
    return -(-batch_size // share) * share

  def members(self, count):
    """The number of members rounded up to a multiple of the devices over which they lie."""
    share = self.mesh.shape[MEMBER]
    return -(-count // share) * share

  def mine(self, slots):
    """(slots or fewer,) the batch slots that this program holds; used inside it."""
    if not self.pmap:
      return jax.numpy.arange(slots)
    each = slots // self.mesh.size
    return jax.lax.axis_index(DATA) * each + jax.numpy.arange(each)

  def spread(self, batch):
    """Constrains the rows of a Batch to lie over `data`; used inside a global program."""
    if self.pmap:
      return batch
    return jax.lax.with_sharding_constraint(batch, NamedSharding(self.mesh, PartitionSpec(DATA)))

  def gather(self, x):
    """All devices' rows of `x` in slot order; used inside a program."""
    return jax.lax.all_gather(x, DATA, tiled=True) if self.pmap else x

  def total(self, x):
    """The sum of `x` over the devices that share a batch; used inside a program."""
    return jax.lax.psum(x, DATA) if self.pmap else x

  def everywhere(self, tree):
    """Puts a copy of every array on every device."""
    if self.pmap:
      copies = jax.tree.map(lambda x: np.broadcast_to(x, (self.mesh.size, *np.shape(x))), tree)
      return _put(copies, NamedSharding(self.mesh, PartitionSpec((MEMBER, DATA))))
    return _put(tree, NamedSharding(self.mesh, PartitionSpec()))

  def by_member(self, tree):
    """Puts arrays with a leading member axis on the devices."""
    return self.everywhere(tree) if self.pmap else _put(tree, self.member_sharding)

  def by_row(self, tree):
    """Puts arrays (members, steps, rows, ...) on the devices of a global program."""
    return _put(tree, NamedSharding(self.mesh, PartitionSpec(MEMBER, None, DATA)))

  @property
  def member_sharding(self):
    """Of a global program's arrays with a leading member axis."""
    return NamedSharding(self.mesh, PartitionSpec(MEMBER))

  def to_host(self, tree):
    """NumPy arrays of a tree that by_member() placed."""
    if self.pmap:
      tree = jax.tree.map(lambda x: x[0], tree)
    elif any(not x.is_fully_addressable for x in jax.tree.leaves(tree)):
      whole = NamedSharding(self.mesh, PartitionSpec())   # other processes hold a part of it
      tree = jax.jit(lambda x: x, out_shardings=whole)(tree)
    return jax.device_get(tree)


def make_layout(devices, parallel, members):
  """The Layout of `members` members: whole members on different devices as far as they go round,
  the rows of a batch on different devices where there is one member or `parallel` is "pmap"."""
  over = 1 if parallel == "pmap" or members == 1 else min(len(devices), members)
  while len(devices) % over:
    over -= 1
  return Layout(Mesh(np.asarray(devices).reshape(over, -1), (MEMBER, DATA)), parallel == "pmap")


def _put(tree, sharding):
  """Every process holds the whole of `tree` and gives its devices their part."""
  def put(x):
    if jax.process_count() == 1:
      return jax.device_put(x, sharding)
    x = np.asarray(x)
    return jax.make_array_from_callback(x.shape, sharding, lambda index: x[index])
  return jax.tree.map(put, tree)
