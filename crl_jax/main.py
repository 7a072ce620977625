"""Trains and evaluates one config:
python -m crl_jax.main --config=configs/mimic.py [--workdir=DIR] [--config.key=value].
"""

import logging
import os
import pathlib
import re
import shlex
import sys

from absl import flags
from ml_collections import config_flags

from crl_jax import commands, config as config_lib

_NONE = "No config is named: --config=configs/mimic.py, or another file of configs/."


def main(given):
  from crl_jax import processes, run   # after the flags are parsed, so that --help is quick
  logging.getLogger("crl_jax").setLevel("INFO")
  if given.distributed:
    processes.join(given.distributed)
  name = pathlib.Path(given["config"].config_filename).stem
  run.run(given.config, given.workdir or run.default_workdir(given.config, name),
          shlex.join(["python", "-m", "crl_jax.main", *sys.argv[1:]]))


def parse(argv):
  """Parses the flags.

  A config that cannot be read, a setting that is unknown or of another type end the program with
  one line and status 2.
  """
  found = [re.match(r"--?(?:no)?config(?:$|=|\.([^=\[]*))", argument) for argument in argv[1:]]
  keys = [match[1] for match in found if match and match[1] is not None]
  for key in config_lib.unknown(keys):
    near = config_lib.suggestion(key, config_lib.default())
    commands.refuse(f"Unknown setting --config.{key}. " + (
        f"Did you mean --config.{near}?" if near else "crl_jax/config.py lists them all."))
  if keys and all(match is None or match[1] is not None for match in found):
    commands.refuse(_NONE)
  try:
    rest = commands.parse_flags([
        re.sub("^(--?config=)(~.*)", lambda m: m[1] + os.path.expanduser(m[2]), argument)
        for argument in argv])
    if flags.FLAGS.config is None:
      commands.refuse(_NONE)
    # a file that could not be read is told of where it is first looked at
    flags.FLAGS.config.is_locked
  except SyntaxError as error:
    commands.refuse(f"The file that --config names is no Python: {error}.")
  except OSError as error:
    why = str(error.__cause__ or error).strip().splitlines()[-1].strip()
    commands.refuse(f"The file that --config names cannot be read: {why.rstrip('.')}. "
                    "Name one of configs/.")
  except AttributeError as error:
    if "get_config" not in str(error):
      raise
    commands.refuse("The file that --config names defines no get_config(): name one of configs/.")
  except KeyError as error:   # a task under loss.tasks that this config does not name
    commands.refuse(f"The config has no {error.args[0]}.")
  except IndexError:
    commands.refuse("A setting has fewer elements than "
                    f"{next(argument for argument in argv if '[' in argument)} needs.")
  if rest[1:]:
    commands.refuse(f"Unknown argument '{rest[1]}'; settings are written --config.key=value.")
  return rest


if __name__ == "__main__":
  config_flags.DEFINE_config_file("config", None, "A file of configs/.", lock_config=True)
  commands.path_flag("workdir", "Run folder; by default runs/<config>-<hash of its values>.")
  flags.DEFINE_string(
      "distributed", "", "One of several processes, each with this command: 'auto' on clusters "
      "that JAX knows (SLURM, ...), or HOST:PORT,PROCESSES,INDEX with the address of process 0.")
  commands.run(main, "crl_jax.main", parse=parse)
