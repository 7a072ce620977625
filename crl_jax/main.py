"""Trains and evaluates one config:
python -m crl_jax.main --config=configs/mimic.py [--workdir=DIR] [--config.key=value].
"""

import logging
import pathlib
import shlex
import sys

from absl import flags
from ml_collections import config_flags

from crl_jax import commands


def main(given):
  from crl_jax import processes, run   # after the flags are parsed, so that --help is quick
  logging.getLogger("crl_jax").setLevel("INFO")
  if given.distributed:
    processes.join(given.distributed)
  name = pathlib.Path(given["config"].config_filename).stem
  run.run(given.config, given.workdir or run.default_workdir(given.config, name),
          shlex.join(["python", "-m", "crl_jax.main", *sys.argv[1:]]))


if __name__ == "__main__":
  config_flags.DEFINE_config_file("config", None, "A file of configs/.", lock_config=True)
  commands.path_flag("workdir", "Run folder; by default runs/<config>-<hash of its values>.")
  flags.DEFINE_string(
      "distributed", "", "One of several processes, each with this command: 'auto' on clusters "
      "that JAX knows (SLURM, ...), or HOST:PORT,PROCESSES,INDEX with the address of process 0.")
  commands.run(main, "crl_jax.main", parse=commands.parse_config)
