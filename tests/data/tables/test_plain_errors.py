"""No message shows what another library said of a patient's row."""

import gzip
import os
import pathlib
import subprocess
import sys

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from crl_jax.data.cohort import CohortError
from crl_jax.data.tables import plain_errors, source as tables
from tests.data.mimic import mimic_hospital as made
from tests.data.tables.test_tables import GOOD, SCHEMA, write

ROOT = pathlib.Path(__file__).parents[3]


def call(module, body):
  """Runs `body` as the code of a module of that name."""
  exec(compile(body, "made_up.py", "exec"), {"__name__": module, "pd": pd, "np": np, "pa": pa})


@pytest.mark.parametrize("body", [
    "pd.Series(['secret']).astype(float)", "np.array(['secret']).astype(float)", "float('secret')",
    "pd.to_datetime('secret')", "{}['secret']", "pa.scalar('secret').cast(pa.int64())",
    "import datetime; datetime.datetime.strptime('secret', '%Y')"])
def test_only_kind_and_place_of_a_library_error_are_told(body):
  with pytest.raises(CohortError) as error:
    with plain_errors.plain(lambda error, kind: f"told: {kind}"):
      call("crl_jax.data.made_up", body)
  assert str(error.value).startswith("told: ") and "at made_up.py:1" in str(error.value)
  assert "secret" not in str(error.value)


@pytest.mark.parametrize("body, kind", [
    ("raise ValueError('Set data.root.')", ValueError), ("open('/nowhere/x')", FileNotFoundError),
    ("import jax.numpy as jnp; jnp.zeros(3) + jnp.zeros(2)", TypeError)])
def test_what_crl_jax_the_system_and_jax_say_is_told(body, kind):
  with pytest.raises(kind):
    with plain_errors.plain(lambda error, kind: "told"):
      call("crl_jax.data.made_up", body)


def test_an_error_of_the_database_is_told_without_its_text(tmp_path):
  with pytest.raises(CohortError, match="could not be read") as error:
    with tables.open_folder(write(tmp_path, GOOD), SCHEMA) as source:
      source.tables["lab"].name.cast("int64").to_pandas()
  for word in ("sodium", "lactate", "ph"):
    assert word not in str(error.value).replace("patient", "")
  with pytest.raises(CohortError, match="could not be read") as error:
    with tables.open_folder(tmp_path, SCHEMA) as source:
      source.keep(source.tables["lab"].name.cast("int64").name("number").as_table())
  assert "sodium" not in str(error.value)


def test_the_program_prints_nothing_of_a_note_with_stray_quotes(make_bert, tmp_path):
  stays = made.stays((11, 12))
  notes = made.tables(stays, *(made.records(s, 10) for s in (11, 12)))
  root = made.save(tmp_path / "files", notes)
  path = next(root.rglob("radiology.csv.gz"))
  text = gzip.decompress(path.read_bytes()).decode()
  values = dict(note_id="99999999-RR-1", subject_id="11", charttime=made.at(1),
                storetime=made.at(1), text='"Mr ZEBRA said "no" to the scan"')
  row = ",".join(values.get(column, "") for column in text.splitlines()[0].split(","))
  path.write_bytes(gzip.compress(f"{text}{row}\n".encode()))
  done = subprocess.run(
      [sys.executable, "-m", "crl_jax.main", "--config=configs/mimic.py",
       f"--workdir={tmp_path}/run", f"--config.data.root={root}",
       f"--config.text.model={make_bert(tmp_path / 'bert')}",
       f"--config.text.cache={tmp_path}/cache", f"--config.data.cache={tmp_path}/prepared"],
      cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True)
  said = done.stdout + done.stderr + "".join(
      p.read_text(errors="ignore") for p in (tmp_path / "run").rglob("*") if p.is_file())
  assert done.returncode and "a quote is not closed" in said, said
  for word in ("ZEBRA", "99999999", "scan", "Traceback"):
    assert word not in said
