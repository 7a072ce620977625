"""What is compiled is kept for the next process, where the user wants it."""

import os
import subprocess
import sys

import pytest

PROGRAM = """
import jax, jax.numpy as jnp, logging
from crl_jax import processes
processes.keep_compiled()
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
heard = []
jax.monitoring.register_event_listener(lambda name, **_: heard.append(name))
print(float(jax.jit(lambda x: jnp.sin(x) @ x.T)(jnp.ones((3, 3)))[0, 0]),
      "/jax/compilation_cache/cache_hits" in heard)
"""


def run(folder, **environment):
  """What PROGRAM prints."""
  clean = {k: v for k, v in os.environ.items() if k not in ("JAX_COMPILATION_CACHE_DIR",
                                                            "CRL_JAX_CACHE")}
  done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True,
                        env={**clean, "XDG_CACHE_HOME": str(folder), **environment})
  return done.stdout.split(), done.stderr


def test_a_second_process_finds_what_the_first_compiled(tmp_path):
  (value, found), _ = run(tmp_path)
  (again, later), _ = run(tmp_path)
  assert (found, later) == ("False", "True") and value == again
  kept, = (tmp_path / "crl_jax" / "compiled").iterdir()   # one kind of processor
  assert kept.stat().st_mode & 0o077 == 0 and (kept / ".lockfile").exists()
  entry = max(kept.glob("*-cache"), key=lambda path: path.stat().st_size)
  entry.write_bytes(entry.read_bytes()[:100])              # a kill while it was written
  (value_of_damaged, _), told = run(tmp_path)
  assert value_of_damaged == value


@pytest.mark.parametrize("environment", [{"CRL_JAX_CACHE": ""}, {"JAX_COMPILATION_CACHE_DIR": "x"}])
def test_who_wants_none_or_has_one_is_left_alone(environment, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  run(tmp_path, PYTHONPATH=os.pathsep.join(sys.path), **environment)
  assert not (tmp_path / "crl_jax").exists()


def test_a_folder_that_cannot_be_written_is_a_warning(tmp_path):
  (tmp_path / "crl_jax").write_text("")
  (value, found), told = run(tmp_path)
  assert found == "False" and "Compiled programs are not kept" in told
