"""No message shows what another library said of a patient's row."""

import ast
import gzip
import os
import pathlib
import subprocess
import sys

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from crl_jax.data import cohort
from crl_jax.data.cohort import CohortError
from crl_jax.data.tables import plain_errors, source as tables
from tests.data.mimic import mimic_hospital as made
from tests.data.tables.test_tables import GOOD, SCHEMA, write

ROOT = pathlib.Path(__file__).parents[3]


def call(module, body):
  """Runs `body` as the code of a module of that name."""
  exec(compile(body, "made_up.py", "exec"), {
      "__name__": module, "pd": pd, "np": np, "pa": pa, "cohort": cohort})


@pytest.mark.parametrize("body", [
    "pd.Series(['secret']).astype(float)", "np.array(['secret']).astype(float)", "float('secret')",
    "pd.to_datetime('secret')", "{}['secret']", "pa.scalar('secret').cast(pa.int64())",
    "import datetime; datetime.datetime.strptime('secret', '%Y')", "raise ValueError('secret')",
    "raise type('CohortError', (ValueError,), {})('secret')", "raise OSError('secret')"])
def test_only_kind_and_place_of_a_library_error_are_told(body):
  with pytest.raises(CohortError) as error:
    with plain_errors.plain(lambda error, kind: f"told: {kind}"):
      call("crl_jax.data.made_up", body)
  assert str(error.value).startswith("told: ") and "at made_up.py:1" in str(error.value)
  assert "secret" not in str(error.value)


@pytest.mark.parametrize("body, kind, word", [
    ("raise cohort.CohortError('Set data.root.')", ValueError, "Set data.root."),
    ("raise cohort.AbsentError('no folder x')", FileNotFoundError, "no folder x"),
    ("raise cohort.DiskError(28, 'no room in x')", OSError, "no room in x"),
    ("open('/nowhere/x')", FileNotFoundError, "/nowhere/x"),
    ("import jax.numpy as jnp; jnp.zeros(3) + jnp.zeros(2)", TypeError, "shapes")])
def test_what_crl_jax_the_system_and_jax_say_is_told(body, kind, word):
  with pytest.raises(kind, match=word):
    with plain_errors.plain(lambda error, kind: "told"):
      call("crl_jax.data.made_up", body)


def test_what_a_backbone_says_of_its_files_is_told():
  with pytest.raises(ValueError, match="lacks a tensor"):
    with plain_errors.plain(lambda error, kind: "told"):
      call("crl_jax.backbones.made_up", "raise ValueError('x lacks a tensor')")


def raised(root):
  """Per `raise Name(...)` in the files under `root`: (file, Name, the text of its arguments, the
  error being handled and its types)."""
  for path in sorted(root.rglob("*.py")):
    handled = {}     # raise -> (name, types) of the handler around it
    tree = ast.parse(path.read_text())
    for handler in (x for x in ast.walk(tree) if isinstance(x, ast.ExceptHandler)):
      handled |= {x: (handler.name, ast.unparse(handler.type)) for x in ast.walk(handler)
                  if isinstance(x, ast.Raise)}
    for node in (x for x in ast.walk(tree) if isinstance(x, ast.Raise)):
      if isinstance(node.exc, ast.Call):
        yield (path.relative_to(root).as_posix(), ast.unparse(node.exc.func).split(".")[-1],
               node.exc.args, handled.get(node, (None, "")))


def own_types(root):
  """The names of CohortError and of all classes under `root` that are made of it."""
  classes = {x.name: {ast.unparse(base).split(".")[-1] for base in x.bases}
             for path in root.rglob("*.py") for x in ast.walk(ast.parse(path.read_text()))
             if isinstance(x, ast.ClassDef)}
  own = {"CohortError"}
  while more := {name for name, bases in classes.items() if bases & own} - own:
    own |= more
  return own


def faults(root):
  """What is raised with words and is not told as our own, or is and quotes another's error."""
  own, found = own_types(root), []
  for file, kind, args, (name, types) in raised(root):
    if kind not in own | {"failed"}:      # csv_files' own: a CohortError
      found.append(f"{file}: {kind}")
    quoted = {ast.unparse(x.value) for arg in args for x in ast.walk(arg)
              if isinstance(x, ast.FormattedValue)} | {ast.unparse(arg) for arg in args}
    if kind in own and types.split(".")[-1] not in own and quoted & {name, f"str({name})"}:
      found.append(f"{file}: quotes {types}")
  return found


def test_what_data_raises_is_ours_by_its_type_and_quotes_nobody():
  """But Python's protocol of modules, and what a backbone says of its files."""
  assert faults(pathlib.Path(cohort.__file__).parent) == [
      "eicu/__init__.py: AttributeError", "mimic/__init__.py: AttributeError",
      "mimic/cohort.py: quotes FileNotFoundError"]


@pytest.mark.parametrize("line, fault", [
    ("raise ValueError('x')", "ValueError"), ("raise Mine('x')", ""),
    ("try: f()\nexcept ValueError as e: raise Mine(f'x {e}')", "quotes ValueError"),
    ("try: f()\nexcept ValueError as e: raise Mine(str(e))", "quotes ValueError"),
    ("try: f()\nexcept ValueError as e: raise Mine(f'{type(e).__name__}')", ""),
    ("try: f()\nexcept Mine as e: raise Mine(f'x {e}')", "")])
def test_such_a_raise_is_found(tmp_path, line, fault):
  (tmp_path / "a.py").write_text(f"class Mine(OSError, lib.CohortError): pass\n{line}\n")
  assert faults(tmp_path) == [f"a.py: {fault}"] * bool(fault)


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
