"""What a user types: simulate, main, predict."""

import os
import pathlib
import subprocess
import sys
import types

import pytest

from crl_jax.data.cohort import CohortError
from crl_jax.policy import data, simulate

ROOT = pathlib.Path(__file__).parents[2]


def run(*arguments):
  done = subprocess.run([sys.executable, "-m", *arguments], cwd=ROOT, text=True,
                        capture_output=True, env={**os.environ, "PYTHONPATH": str(ROOT)},
                        timeout=120)
  return done.returncode, done.stdout + done.stderr


def given(**changes):
  return types.SimpleNamespace(**{"kind": "simsum", "rows": 250, "world": "", "seed": 0} | changes)


def test_simulated_rows_are_written_and_read_back(tmp_path, capsys):
  simulate.main(given(out=tmp_path / "a", world="A"))
  p = data.validate(data.load(tmp_path / "a"))
  assert len(p) == 250 and not p.cohort.observed.all() and set(p.truth) == {"mu0", "mu1", "e"}
  assert "250 rows" in capsys.readouterr().out
  with pytest.raises(CohortError, match="world of mmnar is a number"):
    simulate.main(given(out=tmp_path / "b", kind="mmnar", world="A"))
  with pytest.raises(ValueError, match="policy.world is 'D'"):
    simulate.main(given(out=tmp_path / "b", world="D"))
  with pytest.raises(CohortError, match="not empty"):
    simulate.main(given(out=tmp_path / "a"))


@pytest.mark.parametrize("command, words", [
    ("main", ["--config", "--workdir"]), ("simulate", ["--kind", "--rows", "--world"]),
    ("predict", ["--workdir", "--cohort", "--out"])])
def test_help_says_what_there_is(command, words):
  status, printed = run(f"crl_jax.policy.{command}", "--help")
  assert status == 0 and all(word in printed for word in words)


@pytest.mark.parametrize("arguments, word", [
    (["main", "--config=configs/policy_simsum.py", "--workdir=x", "--config.policy.clib=1"],
     "Did you mean --config.policy.clip?"),
    (["main", "--workdir=x"], "No config is named"),
    (["predict", "--workdir=x"], "--cohort"),
    (["simulate", "--kind=mimic", "--out=x"], "'simsum' or 'mmnar'")])
def test_a_mistyped_command_ends_with_one_line_and_status_2(arguments, word):
  status, printed = run(f"crl_jax.policy.{arguments[0]}", *arguments[1:])
  assert status == 2 and word in printed and "Traceback" not in printed


def test_importing_a_command_loads_nothing_heavy():
  program = ("import sys, crl_jax.policy.main, crl_jax.policy.predict, crl_jax.policy.simulate; "
             "print([m for m in ('jax', 'pandas', 'sklearn', 'matplotlib') if m in sys.modules])")
  done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, text=True, capture_output=True,
                        check=True)
  assert done.stdout.strip() == "[]"
