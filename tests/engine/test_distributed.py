"""Two real processes on one machine: the numbers of one, and files written once."""

import ast
import pathlib
import socket
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from configs import mimic
from crl_jax import config as config_lib, files, processes
from tests import compiling

ROOT = pathlib.Path(__file__).parents[2]


@pytest.mark.parametrize("run_of", [
    "tiny_run",                                               # rows of a batch in both processes
    pytest.param("members_run", marks=pytest.mark.slow)])     # two members in each
def test_two_processes_give_the_numbers_of_one(run_of, request, tmp_path):
  expected = request.getfixturevalue(run_of)
  settings = [f"--config.{line.split(': ')[0]}={ast.literal_eval(line.split(' -> ')[1])}"
              for line in config_lib.difference(mimic.get_config().to_dict(),
                                                expected.config.to_dict())]
  with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    port = free.getsockname()[1]
  processes = [subprocess.Popen(
      [sys.executable, "-m", "crl_jax.main", "--config=configs/mimic.py",
       f"--workdir={tmp_path / 'run'}", f"--distributed=127.0.0.1:{port},2,{index}", *settings],
      cwd=ROOT, env=compiling.environment(PYTHONPATH=str(ROOT)),
      text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE) for index in range(2)]
  told = [process.communicate(timeout=600) for process in processes]
  assert [process.returncode for process in processes] == [0, 0], told
  assert "MORTALITY" in told[0][0] and "MORTALITY" not in told[1][0]   # the first alone prints
  table = pd.read_parquet(tmp_path / "run" / "predictions.parquet")
  keys = ["fold", "seed", "role", "row_id"]
  found, other = (t.sort_values(keys).reset_index(drop=True) for t in (table, expected.table))
  assert found[keys].equals(other[keys])
  np.testing.assert_allclose(found.p_base_mortality, other.p_base_mortality, atol=1e-4)
  assert len(files.history(tmp_path / "run")) == len(files.history(expected.folder))


def test_a_wrong_address_is_refused():
  with pytest.raises(ValueError, match="HOST:PORT,PROCESSES,INDEX"):
    processes.join("127.0.0.1:1234")
