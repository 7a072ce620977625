"""Writes the model of a finished run as files that need no crl_jax:
python -m crl_jax.export --workdir=RUN --output=DIR.

DIR holds `model.stablehlo` (jax.export; any number of rows, CPU and NVIDIA GPU), `weights.npz` (its
first argument), `schema.json` (what goes in, what comes out, what it was trained on) and
`example.py` (loads it with `pip install jax numpy flatbuffers` alone; jax.export needs the last).
The weights were learned from patients: share them only as the data's use agreement allows.
"""

import pathlib
import sys

from absl import app, flags, logging

from crl_jax import stopping


def main(argv):
  if len(argv) > 1:
    raise app.UsageError(f"Unknown argument '{argv[1]}'.")
  logging.set_verbosity(logging.WARNING)   # orbax tells of every file it reads
  with stopping.cleanly("crl_jax.export"):
    from crl_jax.serve import export   # late, so that --help is quick
    output = pathlib.Path(flags.FLAGS.output).resolve()
    try:
      members = export.export(flags.FLAGS.workdir, output)
    except (ValueError, OSError, RuntimeError) as error:
      sys.exit(f"\nError: {error}")
  print(f"members averaged: {members} -> {output}\nTry it: python {output / 'example.py'}")


if __name__ == "__main__":
  flags.DEFINE_string("workdir", None, "A finished run folder.", required=True)
  flags.DEFINE_string("output", None, "Folder to make.", required=True)
  app.run(main)
