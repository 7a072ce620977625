"""Trains and evaluates one config: python -m crl_jax.main --config=configs/mimic.py [--workdir=DIR] [--config.key=value]."""

import pathlib
import sys

from absl import app, flags, logging
from ml_collections import config_flags

_CONFIG = config_flags.DEFINE_config_file("config", None, "A file of configs/.", lock_config=True)
_WORKDIR = flags.DEFINE_string("workdir", None, "Run folder; by default runs/<config>-<hash of its values>.")


def main(argv):
  if len(argv) > 1:
    raise app.UsageError(f"Unknown argument '{argv[1]}'; settings are written --config.key=value.")
  from crl_jax import run   # after the flags are parsed, so that --help is quick
  logging.set_verbosity(logging.WARNING)   # orbax tells of every file it renames
  logging.logging.getLogger("crl_jax").setLevel("INFO")
  name = pathlib.Path(flags.FLAGS["config"].config_filename).stem
  workdir = _WORKDIR.value or run.default_workdir(_CONFIG.value, name)
  try:
    run.run(_CONFIG.value, workdir, " ".join(["python", "-m", "crl_jax.main", *sys.argv[1:]]))
  except (ValueError, OSError, RuntimeError, FloatingPointError) as error:
    sys.exit(f"\nError: {error}")


if __name__ == "__main__":
  flags.mark_flag_as_required("config")
  app.run(main)
