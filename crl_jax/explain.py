"""What each modality contributed to the predictions of a finished run, per cohort and per patient:

python -m crl_jax.explain --workdir=RUN [--rows=500] [--absent=replaced|removed]
    [--patients_file=FILE.parquet] [--row_ids=ID,ID --page=FILE.html] [--data_root=DIR]

Writes explain.json and explain.svg into the run folder and makes its report again. Nothing about a
single patient is written but the two files that are asked for by name. serve/explain.py says what
the numbers are.
"""

import pathlib
import re

from absl import flags

from crl_jax import commands


def main(given):
  if bool(given.page) != bool(given.row_ids):
    commands.refuse("--page and --row_ids belong together.")
  if not all(re.fullmatch("-?[0-9]+", one) for one in given.row_ids):
    commands.refuse("--row_ids must be whole numbers with commas between them.")
  from crl_jax.report import explanations, tables   # late, so that --help is quick
  from crl_jax.serve import explain
  found = explain.of_run(given.workdir, given.rows, given.absent, given.data_root)
  brief = explanations.write(given.workdir, found, new=bool(given.data_root))
  if given.patients_file or given.page:
    table = explanations.lines(found)
  if given.patients_file:
    table.to_parquet(given.patients_file, index=False)
  if given.page:
    explanations.patient_page(pathlib.Path(given.page), table, list(map(int, given.row_ids)),
                              found.modalities)
  print("\n".join(brief["said"]))
  for task, entry in brief["tasks"].items():
    print(f"\n{task.upper()}: mean absolute contribution [95% interval by patient]")
    for name, value in entry["contribution"].items():
      print(f"  {name:24} {tables.interval_text(value, '.4f')}")


if __name__ == "__main__":
  commands.path_flag("workdir", "A finished run folder.", required=True)
  flags.DEFINE_integer("rows", 500, "How many test rows are explained at most.", lower_bound=1)
  flags.DEFINE_enum("absent", "replaced", ("replaced", "removed"),
                    "What stands for a modality outside a coalition.")
  commands.path_flag("patients_file", "Parquet file: a line per row and task.", "")
  flags.DEFINE_list("row_ids", [], "Rows drawn on --page, with commas.")
  commands.path_flag("page", "HTML file with a figure per row of --row_ids.", "")
  commands.path_flag("data_root", "New data instead of the run's own test rows.", "")
  commands.run(main, "crl_jax.explain")
