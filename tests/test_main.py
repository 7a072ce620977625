"""The command line: help, and one clear line for every mistake in it."""

import json
import os
import pathlib
import subprocess
import sys
import time

import pytest

from crl_jax import models

ROOT = pathlib.Path(__file__).parents[1]
MIMIC = "--config=configs/mimic.py"


def main(*arguments, module="crl_jax.main", **environment):
  """(exit status, stdout, stderr) of the program; no traceback ever."""
  done = subprocess.run([sys.executable, "-m", module, *map(str, arguments)], cwd=ROOT, text=True,
                        capture_output=True,
                        env={**os.environ, "PYTHONPATH": str(ROOT), **environment}, timeout=120)
  assert "Traceback" not in done.stderr + done.stdout, done.stderr
  return done.returncode, done.stdout, done.stderr


def test_help_is_quick_and_says_what_there_is():
  start = time.monotonic()
  _, printed, errors = main("--help")
  # 0.3 s on an idle core; importing jax and pandas first takes longer than that.
  assert time.monotonic() - start < 10
  assert ("--config" in printed + errors and "--workdir" in printed + errors
          and "--config.key=value" in printed + errors)


def test_importing_main_loads_nothing_heavy():
  program = ("import sys, crl_jax.main; "
             "print([m for m in ('jax', 'pandas', 'sklearn', 'matplotlib') if m in sys.modules])")
  done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, text=True, capture_output=True,
                        check=True)
  assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("arguments, words", [
    ([MIMIC, "--config.train.batchsize=3"],
     ["--config.train.batchsize", "Did you mean --config.train.batch_size?"]),
    ([MIMIC, "--config.trian.batch_size", "3"],
     ["--config.trian.batch_size", "--config.train.batch_size?"]),
    ([MIMIC, "--config.model.hide=one"], ["Did you mean --config.model.crl_mmnar.hide?"]),
    ([f"{MIMIC}:nobody"], ["model.name 'nobody'", "there are:", "zero_fill"]),
    ([f"{MIMIC}:zero_fill", "--config.model.crl_mmnar.hide=one"], ["no ", "crl_mmnar"]),
    ([MIMIC, "--config.xyzzy=3"], ["--config.xyzzy", "crl_jax/config.py lists them"]),
    ([MIMIC, "--config.train.batch_size=many"], ["--config.train.batch_size=many", "int"]),
    ([MIMIC, "--config.evaluate.yardsticks=perhaps"],
     ["--config.evaluate.yardsticks=perhaps", "boolean"]),
    ([MIMIC, "--config.model.dropout=low"], ["--config.model.dropout=low", "a number"]),
    ([MIMIC, "--config.loss.deeper=(icu, 1"], ["--config.loss.deeper=", "a tuple"]),
    ([MIMIC, "--config.loss.deeper[3]=icu"], ["--config.loss.deeper[3]=icu", "fewer elements"]),
    ([MIMIC, "--noconfig.evaluate.yardsticks=1"], ["--noconfig.evaluate.yardsticks=1", "argument"]),
    ([MIMIC, "--noconfig.evaluate.yardstick"], ["--config.evaluate.yardsticks?"]),
    ([MIMIC, "--config.loss.tasks.sepsis.weight=2"], ["sepsis"]),
    ([MIMIC, "--work_dir=x"], ["work_dir", "Did you mean --workdir?"]),
    (["--config.seed=3"], ["No config is named"]),
    ([MIMIC, "config.seed=3"], ["config.seed=3", "--config.key=value"]),
    ([], ["No config is named", "configs/mimic.py"]),
    (["--config=README.md"], ["--config", "no Python", "README.md, line"]),
    (["--config=configs/absent.py"], ["No such file", "'configs/absent.py'", "Name one"]),
    (["--config=configs/absent.py", "--config.seed=3"], ["No such file", "'configs/absent.py'"]),
    (["--config=crl_jax/statistics/metrics.py", "--config.seed=3"],
     ["defines no get_config()", "configs/"]),
    (["--config=crl_jax/statistics/metrics.py"], ["defines no get_config()", "configs/"]),
    (["--config=configs"], ["Is a directory", "'configs'"]),
])
def test_a_mistyped_command_ends_with_one_line_and_status_2(arguments, words, tmp_path):
  status, printed, errors = main(*arguments)
  assert status == 2 and printed == ""
  assert errors.startswith("Error: ") and all(word in errors for word in words), errors
  assert len(errors.strip().splitlines()) <= 2 + len(models.MODELS) * ("nobody" in str(arguments))


@pytest.mark.parametrize("arguments, environment, words", [
    ([MIMIC, "--config.model.heads=7"], {}, ["model.width 128 is not a multiple of model.heads 7"]),
    ([MIMIC, "--config.model.name=zero_fill"], {}, ["choose it with --config=FILE:zero_fill"]),
    ([MIMIC, "--config.data.simulate.sizes=(64, 'wide')"], {},
     ["config.data.simulate.sizes is (64, 'wide'); a tuple of int, as (64, 1376, 768, 768)"]),
    (["--config=configs/eicu.py"], {}, ["data.root='' is not a folder", "--config.data.root=DIR"]),
    ([MIMIC, "--config.data.root=somewhere"], {},
     ["data.root='somewhere' is not a folder", "physionet.org/files/mimiciv/3.1/"]),
    ([MIMIC, "--config.platform=gpu"], {"JAX_PLATFORMS": "cpu"},
     ["no 'gpu' device", "crl_jax[cuda12]"]),
    ([MIMIC], {"JAX_PLATFORMS": "cuda", "CUDA_VISIBLE_DEVICES": ""},
     ["no 'cuda' device", "unset JAX_PLATFORMS"]),
])
def test_what_cannot_run_says_why_and_what_to_do(arguments, environment, words, tmp_path):
  status, printed, errors = main(*arguments, f"--workdir={tmp_path}", **environment)
  assert status == 1 and all(word in errors for word in words), errors
  assert not (tmp_path / "metrics.jsonl").exists()


def test_the_zoo_is_printed():
  status, printed, _ = main(module="crl_jax.models")
  assert status == 0 and printed.splitlines() == models.zoo()
  assert "pattern as an input" in printed


def test_predict_asks_for_what_it_needs(tmp_path):
  status, printed, errors = main(module="crl_jax.predict")
  assert status and "--workdir" in printed + errors
  status, _, errors = main(f"--workdir={tmp_path}", f"--data_root={tmp_path}", "--output=a.parquet",
                           module="crl_jax.predict")
  assert status == 1 and "not a finished run" in errors


RECTIFY = ["--calibration=x.csv", "--predictions=x.csv", "--output=y.csv", "--outcome=y",
           "--probability=p", "--patient=i"]


@pytest.mark.parametrize("module, arguments, status, words", [
    ("predict", ["--workdir=x"], 2, ["--data_root and --output must be given"]),
    ("predict", ["--workdir=x", "--data_root=x", "--output=x", "y"], 2, ["argument 'y'"]),
    ("explain", ["--workdir=x", "--rows=few"], 2, ["--rows=few", "a positive integer"]),
    ("explain", ["--workdir=x", "--absent=gone"], 2, ["--absent=gone", "'replaced' or 'removed'"]),
    ("explain", ["--workdir=x", "--page=p.html"], 2, ["--page and --row_ids belong together"]),
    ("explain", ["--workdir=x", "--page=p.html", "--row_ids=1,b"], 2, ["--row_ids", "numbers"]),
    ("explain", ["--workdir=x"], 1, ["not a finished run"]),
    ("export", ["--workdir=x"], 2, ["--output must be given"]),
    ("rectify", ["--calibration=x.csv"], 2, ["--outcome", "--patient", "must be given"]),
    ("rectify", RECTIFY, 2, ["--patterns must name a column of ids"]),
    ("rectify", [*RECTIFY, "--patterns=a"], 1, ["No such file", "x.csv"]),
    ("rectify", [*RECTIFY, "--patterns=a", "--calibration=x.xlsx"], 1, ["must be a .csv or"]),
    ("report", [], 2, ["RUN is missing: python -m crl_jax.report RUN"]),
    ("report", ["--help=perhaps"], 2, ["--help=perhaps", "boolean"]),
    ("report", ["x", "y"], 2, ["argument 'y'"]),
    ("report", ["x"], 1, ["not a finished run"]),
    ("data.mimic.verify", ["--rot=x"], 2, ["Unknown flag --rot. Did you mean --root?"]),
    ("data.mimic.simulate", ["--out=x", "--density=-1"], 2,
     ["--density=-1", "a non-negative number"]),
    ("data.mimic.simulate", ["--out=x", "--level"], 2, ["--level"]),
    ("data.mimic.simulate", ["--out=crl_jax"], 1, ["crl_jax is not empty"]),
    ("data.mimic.items", ["x"], 2, ["argument 'x'"]),
    ("data.eicu.features", ["x"], 2, ["argument 'x'"]),
])
def test_a_command_says_in_one_line_what_was_wrong(module, arguments, status, words):
  found, printed, errors = main(*arguments, module=f"crl_jax.{module}")
  assert found == status and printed == "" and all(word in errors for word in words), errors
  assert errors.lstrip("\n").startswith("Error: ") and len(errors.strip().splitlines()) == 1


@pytest.mark.parametrize("module", ["main", "predict", "explain", "export", "rectify", "report",
                                    "models", "data.mimic.verify", "data.mimic.simulate",
                                    "data.mimic.items", "data.eicu.features"])
def test_help_needs_no_jax_and_is_no_error(module):
  program = ("import runpy, sys; sys.argv = ['program', '--help']\n"
             f"try: runpy.run_module('crl_jax.{module}', run_name='__main__', alter_sys=True)\n"
             "except SystemExit as end: print(end.code, 'jax' in sys.modules)")
  done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, text=True, capture_output=True)
  assert done.stdout.splitlines()[-1:] == ["0 False"], done.stderr
  assert "crl_jax" in done.stdout and "Warning" not in done.stderr


def test_every_path_of_a_command_may_begin_with_a_home_folder(tmp_path):
  """Each flag is seen to be a path by the home folder of nobody, and one to be expanded."""
  paths = [("main", "workdir"), *(("predict", name) for name in ("workdir", "data_root", "output")),
           *(("explain", name) for name in ("workdir", "patients_file", "page", "data_root")),
           ("export", "workdir"), ("export", "output"), ("data.mimic.verify", "root"),
           ("data.mimic.simulate", "out"),
           *(("rectify", name) for name in ("calibration", "predictions", "output", "page"))]
  program = ("import os, runpy, sys, numpy, absl.app\n"
             f"for module, name in {paths}:\n"
             "  if not os.fork():\n"   # each parses its flags in a process of its own
             "    sys.argv = ['program', f'--{name}=~nobody-at-all/x']\n"
             "    runpy.run_module('crl_jax.' + module, run_name='__main__', alter_sys=True)\n"
             "  os.wait()\n")
  done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, text=True, capture_output=True)
  assert [line.split(": ")[:2] for line in done.stderr.splitlines()] == [
      ["Error", f"--{name}=~nobody-at-all/x"] for _, name in paths], done.stderr
  for module, arguments in (("report", ["~/run"]), ("explain", ["--workdir=~/run"])):
    status, _, errors = main(*arguments, module=f"crl_jax.{module}", HOME=str(tmp_path))
    assert status == 1 and f"{tmp_path}/run is not a finished run" in errors


def test_a_run_in_the_home_folder(tmp_path):
  (tmp_path / "mine.py").write_text((ROOT / "configs" / "mimic.py").read_text())
  status, _, errors = main("--config=~/mine.py", "--config.data.root=~/files", "--workdir=~/run",
                           HOME=str(tmp_path))
  assert status == 1 and f"data.root='{tmp_path}/files' is not a folder" in errors
  assert json.loads((tmp_path / "run" / "config.json").read_text())["data"]["root"] == (
      f"{tmp_path}/files")
  assert not (ROOT / "~").exists()
