"""The command line: help, and one clear line for every mistake in it."""

import os
import pathlib
import subprocess
import sys
import time

import pytest

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
    ([MIMIC, "--config.xyzzy=3"], ["--config.xyzzy", "crl_jax/config.py lists them"]),
    ([MIMIC, "--config.train.batch_size=many"], ["--config.train.batch_size=many", "int"]),
    ([MIMIC, "--config.evaluate.yardsticks=perhaps"],
     ["--config.evaluate.yardsticks=perhaps", "boolean"]),
    ([MIMIC, "--config.loss.tasks.sepsis.weight=2"], ["sepsis"]),
    ([MIMIC, "--work_dir=x"], ["work_dir"]),
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
  assert len(errors.strip().splitlines()) <= 2


@pytest.mark.parametrize("arguments, environment, words", [
    ([MIMIC, "--config.model.heads=7"], {}, ["model.width 128 is not a multiple of model.heads 7"]),
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


def test_predict_asks_for_what_it_needs(tmp_path):
  status, printed, errors = main(module="crl_jax.predict")
  assert status and "--workdir" in printed + errors
  status, _, errors = main(f"--workdir={tmp_path}", f"--data_root={tmp_path}", "--output=a.parquet",
                           module="crl_jax.predict")
  assert status == 1 and "not a finished run" in errors
