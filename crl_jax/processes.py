"""The devices and the processes of a run, and the programs that are compiled for them."""

import hashlib
import logging
import pathlib
import platform as machine

import jax
import numpy as np

from crl_jax import files

_LOG = logging.getLogger("crl_jax")
_KEPT = 2 << 30   # bytes of compiled programs; those not used for longest go first


def keep_compiled():
  """Lets JAX keep compiled programs for the next process, in compiled/ of files.user_folder(),
  unless the user has said where (JAX_COMPILATION_CACHE_DIR) or that nothing is kept (CRL_JAX_CACHE="").

  A program for a CPU is one for its instructions, and a home folder may be shared by machines: each
  kind of processor has a folder of its own. JAX locks it, so that runs may share it.
  """
  if jax.config.jax_compilation_cache_dir is not None or (folder := files.kept_folder()) is None:
    return
  folder = folder / "compiled" / _processor()
  try:
    files.make_private(folder)
  except OSError as error:
    _LOG.warning("Compiled programs are not kept: %s: %s. Set CRL_JAX_CACHE to another folder.",
                 folder, error.strerror)
    return
  jax.config.update("jax_compilation_cache_max_size", _KEPT)
  jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
  jax.config.update("jax_compilation_cache_dir", str(folder))


def _processor():
  """Digest of the kind of this machine's processor."""
  try:
    text = pathlib.Path("/proc/cpuinfo").read_text().partition("\n\n")[0]
    lines = [x for x in text.splitlines() if x.startswith(("model name", "flags", "Features"))]
  except OSError:   # no Linux
    lines = [machine.processor()]
  return hashlib.sha256("\n".join([machine.machine(), *lines]).encode()).hexdigest()[:16]


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
