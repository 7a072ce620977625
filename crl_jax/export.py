"""Writes the model of a finished run as files that need no crl_jax:
python -m crl_jax.export --workdir=RUN --output=DIR.

DIR holds `model.stablehlo` (jax.export; any number of rows, CPU and NVIDIA GPU), `weights.npz` (its
first argument), `schema.json` (what goes in, what comes out, what it was trained on) and
`example.py` (loads it with `pip install jax numpy flatbuffers` alone; jax.export needs the last).
The weights were learned from patients: share them only as the data's use agreement allows.
"""

import pathlib

from crl_jax import commands


def main(given):
  from crl_jax.serve import export   # late, so that --help is quick
  output = pathlib.Path(given.output).resolve()
  members, remembers = export.export(given.workdir, output)
  print(f"members averaged: {members} -> {output}\nTry it: python {output / 'example.py'}")
  if remembers:
    print(f"weights.npz holds embeddings of {remembers} training rows per member: it is as "
          "confidential as those patients' records.")


if __name__ == "__main__":
  commands.path_flag("workdir", "A finished run folder.", required=True)
  commands.path_flag("output", "Folder to make.", required=True)
  commands.run(main, "crl_jax.export")
