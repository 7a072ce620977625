"""Priorities of new patients by a finished study:
python -m crl_jax.policy.predict --workdir=STUDY --cohort=DIR --out=FILE.parquet.

DIR: a folder of data.cohort.save(), or of policy.data.save(), of which only phi is read: no
treatment, no outcome, no annotation. Any modality may be missing.
"""

import pathlib

from crl_jax import commands


def main(given):
  from crl_jax.data import cohort as cohort_lib   # late, so that --help is quick
  cohort = cohort_lib.validate(cohort_lib.load(given.cohort))
  table = predict(given.workdir, cohort, given.out)
  print(f"{len(table)} rows, {int(table.unseen_pattern.sum())} of them of a pattern that training "
        f"never saw -> {given.out}")


def predict(workdir, cohort, out):
  """Writes the priorities of a Cohort: row_id, unseen_pattern, <policy>: larger first, of "risk"
  the worst expected outcome without treatment. Returns the table.

  Raises:
    ValueError: other modalities or features than the study's. OSError: no finished study.
  """
  import pandas as pd
  from crl_jax import files
  from crl_jax.policy import data, effects
  workdir, out = pathlib.Path(workdir), pathlib.Path(out)
  if out.suffix != ".parquet":
    raise ValueError(f"--out must end in .parquet, not '{out.name}'.")
  facts, config = files.of_finished(workdir, "data.json", "config.json")
  phi = data.phi(cohort)
  for name, mine, theirs in (("modalities", phi.modalities, facts["modalities"]),
                             ("kinds", phi.kinds, facts["kinds"]),
                             *((f"features of '{m}'", phi.features.get(m, ()), features)
                               for m, features in facts["features"].items())):
    if (dict(mine) if isinstance(mine, dict) else list(mine)) != theirs:
      raise ValueError(f"the {name} are not those of {workdir}, in its order: bring the same "
                       "inputs, with what nobody has as unobserved.")
  phi = phi.hiding(tuple(config["policy"]["hide"]))
  learned = effects.load(workdir / "policies.npz")
  found = effects.priorities(effects.predict(learned, phi), facts["higher_is_better"])
  table = pd.DataFrame({"row_id": phi.row_id, "unseen_pattern": [
      int(i) not in facts["trained_patterns"] for i in phi.pattern], **found})
  out.parent.mkdir(parents=True, exist_ok=True)
  with files.replaced(out) as part:
    table.to_parquet(part, index=False)
  return table


if __name__ == "__main__":
  commands.path_flag("workdir", "A finished study.", required=True)
  commands.path_flag("cohort", "A folder of data.cohort.save().", required=True)
  commands.path_flag("out", "Parquet file to write.", required=True)
  commands.run(main, "crl_jax.policy.predict")
