"""Predicts new patients with a finished run:
python -m crl_jax.predict --workdir=RUN --data_root=DIR --output=FILE.parquet.

The run's members are averaged; its own preprocessing and its pooled rectifier are applied. Any
modality may be missing, in patterns that training never saw.
"""

from crl_jax import commands


def main(given):
  from crl_jax.report import tables   # late, so that --help is quick
  from crl_jax.serve import predict
  found = predict.predict(given.workdir, given.data_root, given.output)
  print(f"{len(found.table)} rows, members averaged: {found.members} -> {given.output}")
  print("No outcome is known for these rows: no metrics." if found.metrics is None else
        tables.table(found.metrics, found.rectifiers, found.facts, found.min_cell))


if __name__ == "__main__":
  commands.path_flag("workdir", "A finished run folder.", required=True)
  commands.path_flag("data_root", "New data: the source's files, or a folder of "
                     "data.cohort.save().", required=True)
  commands.path_flag("output", "Parquet file to write.", required=True)
  commands.run(main, "crl_jax.predict")
