"""Predicts new patients with a finished run:
python -m crl_jax.predict --workdir=RUN --data_root=DIR --output=FILE.parquet.

The run's members are averaged; its own preprocessing and its pooled rectifier are applied. Any
modality may be missing, in patterns that training never saw.
"""

import sys

from absl import app, flags, logging

from crl_jax import stopping

_WORKDIR = flags.DEFINE_string("workdir", None, "A finished run folder.", required=True)
_ROOT = flags.DEFINE_string(
    "data_root", None, "New data: the source's files, or a folder of data.cohort.save().",
    required=True)
_OUTPUT = flags.DEFINE_string("output", None, "Parquet file to write.", required=True)


def main(argv):
  if len(argv) > 1:
    raise app.UsageError(f"Unknown argument '{argv[1]}'.")
  logging.set_verbosity(logging.WARNING)   # orbax tells of every file it reads
  with stopping.cleanly("crl_jax.predict"):
    from crl_jax.report import tables   # late, so that --help is quick
    from crl_jax.serve import predict
    try:
      found = predict.predict(_WORKDIR.value, _ROOT.value, _OUTPUT.value)
    except (ValueError, OSError, RuntimeError) as error:
      sys.exit(f"\nError: {error}")
    print(f"{len(found.table)} rows, members averaged: {found.members} -> {_OUTPUT.value}")
    print("No outcome is known for these rows: no metrics." if found.metrics is None else
          tables.table(found.metrics, found.rectifiers, found.facts, found.min_cell))


if __name__ == "__main__":
  app.run(main)
