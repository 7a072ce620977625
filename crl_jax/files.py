"""Reading the files of a run folder: what is absent or damaged is named, with the way to have it
again."""

import json
import pathlib


def of_finished(workdir, *names):
  """The contents of a finished run's files `names`, in their order. Raises OSError where the run is
  not finished, and as read()."""
  workdir = pathlib.Path(workdir)
  if not (workdir / "metrics.json").exists():
    raise OSError(f"{workdir} is not a finished run (no metrics.json): run crl_jax.main on it "
                  "until it prints its table.")
  return [read(workdir / name) for name in names]


def read(path):
  """The DataFrame of a .parquet file, the JSON tree of any other. Raises OSError where it is absent
  or damaged."""
  try:
    if path.suffix == ".parquet":
      import pandas as pd
      return pd.read_parquet(path)
    return json.loads(path.read_text())
  except (OSError, ValueError) as error:   # without what was read: it may be a patient's
    names = " and ".join(dict.fromkeys((path.name, "metrics.json")))
    raise OSError(f"{path} is absent or damaged ({type(error).__name__}). Delete {names} there and "
                  "run the same main command again: what was trained is kept.") from error
