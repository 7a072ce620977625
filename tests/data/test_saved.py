"""A saved cohort is a source like any other: configs/cohort.py, resident or streamed."""

import dataclasses
import json
import textwrap

import numpy as np
import pandas as pd
import pytest

from configs import cohort as config_file
from crl_jax import config as config_lib
from crl_jax.data import cohort as cohort_lib, saved, sources
from crl_jax.engine import writer


def test_a_saved_cohort_trains_streamed_as_resident(tiny_config, tiny_run, finish, tmp_path,
                                                    monkeypatch):
  cohort_lib.save(sources.build_cohort(tiny_config), tmp_path / "cohort")
  settings = ["data.cohort=saved", f"data.root={tmp_path / 'cohort'}"]
  for how in ("resident", "streamed"):
    found = finish(config_lib.override(tiny_config, [*settings, f"train.data={how}"]),
                   tmp_path / how)
    np.testing.assert_allclose(found.table.p_base_mortality, tiny_run.table.p_base_mortality,
                               atol=1e-4)
  # a begun run goes on where its data have moved to, and not with others
  folder, moved = tmp_path / "resident", tmp_path / "moved"
  (folder / "metrics.json").unlink()
  (tmp_path / "cohort").rename(moved)
  monkeypatch.setattr(writer.Writer, "write", lambda *_: pytest.fail("an epoch is trained again"))
  config = config_lib.override(tiny_config, ["data.cohort=saved", f"data.root={moved}"])
  before = pd.read_parquet(folder / "predictions.parquet")
  assert finish(config, folder).table.equals(before)
  assert json.loads((folder / "config.json").read_text())["data"]["root"] == str(moved)
  (folder / "metrics.json").unlink()
  cohort = cohort_lib.load(moved)
  cohort_lib.save(dataclasses.replace(cohort, labels=1 - cohort.labels), tmp_path / "other")
  with pytest.raises(ValueError, match="data or splits are not those"):
    finish(config_lib.override(config, [f"data.root={tmp_path / 'other'}"]), folder)


def test_its_config_names_what_is_missing(tmp_path):
  config = config_file.get_config()
  with pytest.raises(cohort_lib.CohortError, match="data.root='' holds no cohort.json"):
    sources.build_cohort(config)
  with pytest.raises(cohort_lib.CohortError, match="cohort.save"):
    sources.build_cohort(config_lib.override(config, [f"data.root={tmp_path}"]))


def test_the_documented_way_to_bring_data_works(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  n, rng = 40, np.random.default_rng(0)
  names = dict(
      labs=rng.normal(size=(n, 3)).astype(np.float32), lab_names=("a", "b", "c"),
      vectors=rng.normal(size=(n, 2)).astype(np.float32), vector_names=("d", "e"),
      observed=np.ones((n, 2), bool), labels=(rng.random((n, 1)) < 0.5).astype(np.float32),
      row_id=np.arange(n), patient_id=np.arange(n), sex=np.array(["F", "M"])[np.arange(n) % 2])
  text = saved.__doc__.split("save it:\n")[1].split("    python -m")[0]
  exec(textwrap.dedent(text), names)
  config = config_lib.override(config_file.get_config(), ["data.root=DIR"])
  found = sources.build_cohort(config)
  assert found.tasks == ("death",) and len(found) == n
  np.testing.assert_array_equal(found.inputs["notes"], names["vectors"])
  for file in saved.__doc__.split("DIR then holds")[1].replace("\n", " ").split(", "):
    if "<modality>" in file:
      assert (tmp_path / "DIR" / "inputs.labs.npy").exists()
    elif file.strip().startswith("rows."):
      assert (tmp_path / "DIR" / file.strip()).exists()
