"""Corrects any predictor's probabilities by the pattern of what was recorded:

python -m crl_jax.rectify --calibration=FILE --predictions=FILE --output=FILE --outcome=COLUMN
    --probability=COLUMN --patient=COLUMN --patterns=COLUMN,COLUMN,... [--page=FILE.html]

Files are CSV or Parquet. The calibration rows have outcomes (0/1; empty: not known) and were not
seen by the predictor in training. --patterns names a column of 0/1 for each modality, or one of
pattern ids. The output is the predictions with a column more, <probability>_rectified. The page
tells what changed, for whom and how sure; posthoc/hierarchy.py what is chosen and how.
"""

import pathlib

from absl import flags

from crl_jax import commands


def main(given):
  if not given.patterns:
    commands.refuse("--patterns must name a column of ids, or a column of 0/1 for each modality.")
  from crl_jax.report import rectified   # late, so that --help is quick
  from crl_jax.serve import rectify
  output = pathlib.Path(given.output)
  page = pathlib.Path(given.page or output.with_suffix(".html"))
  facts = rectify.rectify(
      given.calibration, given.predictions, output, rectify.Columns(
          given.outcome, given.probability, given.patient, tuple(given.patterns)), given.min_cell)
  rectified.write(page, facts)
  print("\n".join(rectified.said(facts)))
  print(f"\n{facts['new']['rows']} rows -> {output}\nPage: {page}")


if __name__ == "__main__":
  commands.path_flag("calibration", "Rows with outcomes, CSV or Parquet.", required=True)
  commands.path_flag("predictions", "Rows to correct, CSV or Parquet.", required=True)
  commands.path_flag("output", "File to write, .csv or .parquet.", required=True)
  commands.path_flag("page", "HTML page; by default beside the output.", "")
  flags.DEFINE_string("outcome", None, "Column of the outcome, 0 or 1.", required=True)
  flags.DEFINE_string("probability", None, "Column of the predicted probability.", required=True)
  flags.DEFINE_string("patient", None, "Column of the patient's id.", required=True)
  flags.DEFINE_list("patterns", [], "Columns of 0/1, one a modality, or one column of ids.")
  flags.DEFINE_integer("min_cell", 10, "Patients behind any number of a group that is told.",
                       lower_bound=0)
  commands.run(main, "crl_jax.rectify")
