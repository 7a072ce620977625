"""What each modality contributed to the predictions of a finished run, per cohort and per patient:

python -m crl_jax.explain --workdir=RUN [--rows=500] [--absent=replaced|removed]
    [--patients_file=FILE.parquet] [--row_ids=ID,ID --page=FILE.html] [--data_root=DIR]

Writes explain.json and explain.svg into the run folder and makes its report again. Nothing about a
single patient is written but the two files that are asked for by name. serve/explain.py says what
the numbers are.
"""

import argparse
import logging
import pathlib
import sys

from crl_jax import stopping


def main():
  parser = argparse.ArgumentParser(description=__doc__,
                                   formatter_class=argparse.RawDescriptionHelpFormatter)
  add = parser.add_argument
  add("--workdir", required=True, help="a finished run folder")
  add("--rows", type=int, default=500, help="how many test rows are explained at most")
  add("--absent", choices=("replaced", "removed"), default="replaced",
      help="what stands for a modality outside a coalition")
  add("--patients_file", default="", help="Parquet file: a line per row and task")
  add("--row_ids", default="", help="rows drawn on --page, with commas")
  add("--page", default="", help="HTML file with a figure per row of --row_ids")
  add("--data_root", default="", help="new data instead of the run's own test rows")
  chosen = parser.parse_args()
  if bool(chosen.page) != bool(chosen.row_ids):
    parser.error("--page and --row_ids belong together")
  logging.getLogger("absl").setLevel("WARNING")   # orbax tells of every file it reads
  with stopping.cleanly("crl_jax.explain"):
    _main(chosen)


def _main(chosen):
  from crl_jax.report import explanations, tables   # late, so that --help is quick
  from crl_jax.serve import explain
  try:
    found = explain.of_run(chosen.workdir, chosen.rows, chosen.absent, chosen.data_root)
    brief = explanations.write(chosen.workdir, found, new=bool(chosen.data_root))
    if chosen.patients_file or chosen.page:
      table = explanations.lines(found)
    if chosen.patients_file:
      table.to_parquet(chosen.patients_file, index=False)
    if chosen.page:
      explanations.patient_page(pathlib.Path(chosen.page), table,
                                [int(i) for i in chosen.row_ids.split(",")], found.modalities)
  except (ValueError, OSError, RuntimeError) as error:
    sys.exit(f"\nError: {error}")
  print("\n".join(brief["said"]))
  for task, entry in brief["tasks"].items():
    print(f"\n{task.upper()}: mean absolute contribution [95% interval by patient]")
    for name, value in entry["contribution"].items():
      print(f"  {name:24} {tables.interval_text(value, '.4f')}")


if __name__ == "__main__":
  main()
