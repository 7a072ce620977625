"""The devices and the processes of a run."""

import jax
import numpy as np


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


def join(text):
  """Makes this process one of several that run one program.

  Args:
    text: "auto" under SLURM and other clusters that JAX knows, or "HOST:PORT,PROCESSES,INDEX" with
      the address of process 0.
  Raises:
    ValueError: neither of these.
  """
  if text == "auto":
    return jax.distributed.initialize()
  try:
    address, processes, index = text.split(",")
    processes, index = int(processes), int(index)
  except ValueError:
    raise ValueError(f"--distributed is '{text}'; it may be auto or HOST:PORT,PROCESSES,INDEX, for "
                     "example 10.0.0.1:1234,2,0.") from None
  jax.distributed.initialize(address, processes, index)


def leader():
  """True in the one process that writes files and prints."""
  return jax.process_index() == 0


def wait_for_all(name):
  """Waits until all processes are here."""
  if jax.process_count() > 1:
    from jax.experimental import multihost_utils
    multihost_utils.sync_global_devices(name)


def agreed(number):
  """The largest `number` of all processes, so that they decide alike."""
  if jax.process_count() == 1:
    return number
  from jax.experimental import multihost_utils
  return int(multihost_utils.process_allgather(np.int32(number)).max())
