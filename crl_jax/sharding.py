"""How one step spreads over devices: one global program over a mesh, or a replica per device
(pmap).

Both see the same global batch in the same slots, so their numbers agree up to the order of
summation.
"""

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

AXIS = "data"


def select_devices(platform):
  """The devices to run on. Raises RuntimeError with a next step where the wanted platform is
  absent."""
  try:
    devices = jax.devices(platform or None)
  except (RuntimeError, AssertionError) as error:   # a missing CUDA plugin is a bare AssertionError
    wanted = platform or jax.config.jax_platforms or "any"
    raise RuntimeError(f"JAX finds no '{wanted}' device. For NVIDIA GPUs: pip install "
                       "'crl_jax[cuda12]' (or [cuda13]) and check nvidia-smi; to run on the CPU: "
                       "unset JAX_PLATFORMS and leave config.platform empty.") from error
  return devices


def make_mesh(devices):
  """A one-axis mesh named `data`."""
  return Mesh(np.asarray(devices), (AXIS,))


def slots(batch_size, devices):
  """The batch size rounded up to a multiple of the device count; the extra slots hold padding."""
  return -(-batch_size // len(devices)) * len(devices)


def replicated(mesh):
  """The sharding of an array that every device of the mesh holds whole."""
  return NamedSharding(mesh, PartitionSpec())


def replicate(tree, mesh):
  """Puts a copy of every array on every device of the mesh, for the global program."""
  return jax.device_put(tree, replicated(mesh))


def shard_batch(batch, mesh):
  """Constrains the leading axis of every array of `batch` to lie over the mesh; used inside jit."""
  return jax.lax.with_sharding_constraint(batch, NamedSharding(mesh, PartitionSpec(AXIS)))


def stack_replicas(tree, mesh):
  """Gives every array a leading device axis, one copy per device, for pmap."""
  sharding = NamedSharding(mesh, PartitionSpec(AXIS))
  def stack(x):
    if isinstance(x, jax.Array) and jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key):
      return jax.random.wrap_key_data(stack(jax.random.key_data(x)))
    x = np.asarray(x)
    return jax.make_array_from_callback((mesh.size, *x.shape), sharding, lambda _: x[None])
  return jax.tree.map(stack, tree)


def first_replica(tree):
  """Undoes stack_replicas."""
  return jax.tree.map(lambda x: x[0], tree)
