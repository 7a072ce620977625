"""Trains and evaluates one config:
python -m crl_jax.main --config=configs/mimic.py [--workdir=DIR] [--config.key=value].
"""

import pathlib
import re
import shlex
import sys

from absl import app, flags, logging
from ml_collections import config_flags

from crl_jax import config as config_lib, stopping

_CONFIG = config_flags.DEFINE_config_file("config", None, "A file of configs/.", lock_config=True)
_WORKDIR = flags.DEFINE_string("workdir", None,
                               "Run folder; by default runs/<config>-<hash of its values>.")
_DISTRIBUTED = flags.DEFINE_string(
    "distributed", "", "One of several processes, each with this command: 'auto' on clusters that "
    "JAX knows (SLURM, ...), or HOST:PORT,PROCESSES,INDEX with the address of process 0.")


def main(argv):
  if len(argv) > 1:
    _refuse(f"Unknown argument '{argv[1]}'; settings are written --config.key=value.")
  logging.set_verbosity(logging.WARNING)   # orbax tells of every file it renames
  logging.logging.getLogger("crl_jax").setLevel("INFO")
  with stopping.cleanly("crl_jax.main"):
    _run(pathlib.Path(flags.FLAGS["config"].config_filename).stem)


def _run(name):
  from crl_jax import processes, run   # after the flags are parsed, so that --help is quick
  try:
    if _DISTRIBUTED.value:
      processes.join(_DISTRIBUTED.value)
    workdir = _WORKDIR.value or run.default_workdir(_CONFIG.value, name)
    run.run(_CONFIG.value, workdir, shlex.join(["python", "-m", "crl_jax.main", *sys.argv[1:]]))
  except (ValueError, OSError, RuntimeError, FloatingPointError) as error:
    sys.exit(f"\nError: {error}")


def _parse(argv):
  """Parses the flags.

  A config that cannot be read, a setting that is unknown or of another type end the program with
  one line and status 2.
  """
  keys = [found[1] for found in (re.match(r"--?config\.([^=\[]+)", argument)
                                 for argument in argv[1:]) if found]
  for key in config_lib.unknown(keys):
    near = config_lib.suggestion(key, config_lib.default())
    _refuse(f"Unknown setting --config.{key}. " + (
        f"Did you mean --config.{near}?" if near else "crl_jax/config.py lists them all."))
  try:
    rest = flags.FLAGS(argv)
    _CONFIG.value.is_locked   # a file that could not be read is told of where it is first looked at
    return rest
  except flags.Error as error:
    missing = "--config must have" in str(error)
    _refuse("No config is named: --config=configs/mimic.py, or another file of configs/."
            if missing else error)
  except SyntaxError as error:
    _refuse(f"The file that --config names is no Python: {error}.")
  except OSError as error:
    why = str(error.__cause__ or error).strip().splitlines()[-1].strip()
    _refuse(f"The file that --config names cannot be read: {why.rstrip('.')}. "
            "Name one of configs/.")
  except AttributeError as error:
    if "get_config" not in str(error):
      raise
    _refuse("The file that --config names defines no get_config(): name one of configs/.")
  except KeyError as error:   # a task under loss.tasks that this config does not name
    _refuse(f"The config has no {error.args[0]}.")


def _refuse(message):
  print(f"Error: {message}", file=sys.stderr)
  sys.exit(2)


if __name__ == "__main__":
  flags.mark_flag_as_required("config")
  app.run(main, flags_parser=_parse)
