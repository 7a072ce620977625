"""A run that signals stop: real processes, killed or asked to stop, and signals at any moment."""

import ast
import asyncio
import gc
import json
import os
import pathlib
import random
import shlex
import signal
import subprocess
import sys
import time

import pandas as pd
import pytest

from crl_jax import config as config_lib, files, run, stopping
from crl_jax.data import mimic, sources
from crl_jax.engine import members, writer
from crl_jax.statistics import evaluate
from tests import compiling

ROOT = pathlib.Path(__file__).parents[1]


@pytest.fixture(scope="module")
def launch(tiny_config, tmp_path_factory):
  """launch(folder[, command]): a process of crl_jax.main with the tiny run's settings, saving after
  every epoch.
  """
  from configs import mimic as base
  lines = config_lib.difference(base.get_config().to_dict(), tiny_config.to_dict())
  settings = {line.split(": ")[0]: ast.literal_eval(line.split(" -> ")[1]) for line in lines}
  arguments = [f"--config.{key}={value}" for key, value in settings.items()] + [
      "--config.checkpoint.every_epochs=1"]
  environment = compiling.environment(
      PYTHONPATH=str(ROOT), JAX_COMPILATION_CACHE_DIR=str(tmp_path_factory.mktemp("compiled")),
      JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS="0")
  def start(folder, command=(), more=()):
    command = command or ["python", "-m", "crl_jax.main", "--config=configs/mimic.py",
                          f"--workdir={folder}", *arguments, *more]
    command = [sys.executable, *command[1:]]
    return subprocess.Popen(command, cwd=ROOT, env=environment, text=True, stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE)
  return start


def wait_for_epochs(process, folder, epochs):
  while len(files.history(folder)) < epochs:
    assert process.poll() is None, process.communicate()
    time.sleep(0.02)


def finish_process(process):
  printed, errors = process.communicate(timeout=180)
  assert process.returncode == 0, errors
  return printed


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_terminated_run_says_how_to_go_on_and_ends_where_an_uninterrupted_one_does(
    launch, tiny_run, tmp_path, number):
  process = launch(tmp_path)
  wait_for_epochs(process, tmp_path, 2)
  with pytest.raises(RuntimeError, match="Another process"):   # two real processes in one folder
    run.run(tiny_run.config, tmp_path)
  process.send_signal(number)
  printed, errors = process.communicate(timeout=120)
  assert process.returncode == 128 + number, errors
  command = shlex.split(printed.split("run the same command again:\n")[1])   # ready to be pasted
  assert "Traceback" not in errors and not (tmp_path / "metrics.json").exists()
  before = files.history(tmp_path)
  assert 2 <= len(before) < 6
  assert mimic.BANNER in finish_process(launch(tmp_path, command))
  # Their seconds too: nothing was trained twice.
  assert files.history(tmp_path)[:len(before)] == before
  same_predictions(tmp_path, tiny_run)


def test_a_killed_run_ends_where_an_uninterrupted_one_does(launch, tiny_run, tmp_path):
  process = launch(tmp_path)
  wait_for_epochs(process, tmp_path, 1)
  time.sleep(random.uniform(0, 2.5))   # between saves, within one, or in the evaluation
  process.kill()
  process.communicate()
  finish_process(launch(tmp_path))
  same_predictions(tmp_path, tiny_run)


@pytest.mark.slow
def test_twenty_kills_change_nothing(launch, tmp_path):
  """SIGKILL, ten times at random moments and ten times when a checkpoint was just begun, at least
  five of which are killed with it. Two folds by two seeds, resident; streaming shares the loop."""
  more = ["--config.members.folds=2", "--config.members.seeds=2", "--config.train.joint.epochs=40",
          "--config.train.joint.patience=40"]
  whole, killed = tmp_path / "whole", tmp_path / "killed"
  finish_process(launch(whole, more=more))
  seed, within = random.Random(0), 0
  for kill in range(20):
    before = len(files.history(killed))
    unfinished = lambda: {p for p in killed.glob("checkpoints/*") if p.is_dir()
                          and p.name != "final" and not p.with_suffix(".json").exists()}
    left = unfinished()   # by the kill before
    process = launch(killed, more=more)
    # at least one epoch further each time, or the last kills would find it finished
    while len(files.history(killed)) <= before and process.poll() is None:
      time.sleep(0.01)
    if kill % 2:
      while not unfinished() - left and process.poll() is None:
        time.sleep(0.001)
    else:
      time.sleep(seed.uniform(0, 0.5))
    process.kill()
    process.communicate()
    assert not (killed / "metrics.json").exists()
    within += bool(kill % 2 and unfinished() - left)
  assert within >= 5
  finish_process(launch(killed, more=more))
  assert not unfinished()   # what they left was removed
  read = lambda folder: pd.read_parquet(folder / "predictions.parquet")
  pd.testing.assert_frame_equal(read(killed), read(whole), check_exact=True)
  strip = lambda folder: [{k: v for k, v in r.items() if k != "seconds"}
                          for r in files.history(folder)]
  assert strip(killed) == strip(whole)


@pytest.mark.parametrize("where", ["last epoch", "prediction", "evaluation", "cohort"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_when_no_epoch_follows_stops_too(tiny_config, tiny_run, finish, tmp_path, capsys,
                                                  monkeypatch, where, number):
  send = lambda: os.kill(os.getpid(), number)
  def then(function):
    return lambda *args: (send(), time.sleep(5), function(*args))
  with monkeypatch.context() as patch:
    if where == "last epoch":
      write = writer.Writer.write
      patch.setattr(writer.Writer, "write", lambda self, member, stage, epoch, scalars: (
          write(self, member, stage, epoch, scalars), epoch == 6 and send()))
    elif where == "prediction":
      patch.setattr(members.Ready, "predict", then(members.Ready.predict))
    elif where == "evaluation":
      patch.setattr(evaluate, "evaluate", then(evaluate.evaluate))
    else:
      patch.setattr(sources, "build_cohort", then(sources.build_cohort))
    before = signal.getsignal(number)
    with pytest.raises(SystemExit) as stopped:
      finish(tiny_config, tmp_path, "THE COMMAND")
    assert stopped.value.code == 128 + number and signal.getsignal(number) == before
  errors = capsys.readouterr().err
  assert ("Stopping after this epoch" in errors) == (where == "last epoch")
  assert not (tmp_path / "metrics.json").exists()
  if where != "cohort":
    monkeypatch.setattr(writer.Writer, "write", lambda *_: pytest.fail("an epoch is trained again"))
    finish(tiny_config, tmp_path)
    same_predictions(tmp_path, tiny_run)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_run_stopped_while_it_is_explained_is_explained_the_next_time(launch, tmp_path, number):
  process = launch(tmp_path, more=["--config.evaluate.explain=24"])
  while not (tmp_path / "metrics.json").exists():
    assert process.poll() is None, process.communicate()
    time.sleep(0.01)
  process.send_signal(number)
  printed, errors = process.communicate(timeout=300)
  assert process.returncode == 128 + number and "Traceback" not in errors, errors
  assert not (tmp_path / "explain.svg").exists()
  command = shlex.split(printed.split("run the same command again:\n")[1])
  printed = finish_process(launch(tmp_path, command))
  assert "This run is finished" in printed and (tmp_path / "explain.svg").exists()
  assert "Shapley" in (tmp_path / "report.html").read_text()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_while_garbage_is_collected_is_not_lost(number):
  """Python prints what is raised there and goes on; JAX collects its own garbage there."""
  def collect(phase, _):
    if phase == "start" and not sent:
      sent.append(number)
      os.kill(os.getpid(), number)
      time.sleep(0.05)
  sent = []
  with stopping.signals() as stop, pytest.raises(stopping.Interrupted):
    gc.callbacks.append(collect)
    try:
      gc.collect()
      time.sleep(10)
    finally:
      gc.callbacks.remove(collect)
  assert sent and stop() == number


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_in_an_event_loop_waits_for_its_end(number):
  """Orbax reads in one; what is raised while it is made or run leaves tracebacks behind."""
  async def read():
    os.kill(os.getpid(), number)
    time.sleep(0.05)
    done.append(number)
  done = []
  with stopping.signals() as stop, pytest.raises(stopping.Interrupted):
    asyncio.run(read())
    time.sleep(10)
  assert done and stop() == number


def test_a_second_signal_does_not_wait(launch, tmp_path):
  code = ("import asyncio, sys, time\nfrom crl_jax import stopping\n"
          "async def read():\n  print('reading', flush=True)\n  time.sleep(60)\n"
          "with stopping.cleanly('crl_jax.predict'):\n  asyncio.run(read())\n")
  process = launch(tmp_path, ["python", "-c", code])
  assert process.stdout.readline() == "reading\n"
  process.send_signal(signal.SIGTERM)
  time.sleep(0.5)
  assert process.poll() is None
  process.send_signal(signal.SIGTERM)
  process.communicate(timeout=30)
  assert process.returncode == -signal.SIGTERM


@pytest.mark.parametrize("module", ["predict", "export", "explain"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_what_follows_a_run_stops_too(launch, tmp_path, module, number):
  """Stopped while it reads the run's config, a pipe into which nobody writes."""
  files.finish(tmp_path, (), {"test": {}})
  os.mkfifo(tmp_path / "config.json")
  more = dict(predict=[f"--data_root={tmp_path}", f"--output={tmp_path / 'p.parquet'}"],
              export=[f"--output={tmp_path / 'export'}"], explain=[])[module]
  command = ["python", "-m", f"crl_jax.{module}", f"--workdir={tmp_path}", *more]
  process = launch(tmp_path, command)
  while True:
    assert process.poll() is None, process.communicate()
    try:
      pipe = os.open(tmp_path / "config.json", os.O_WRONLY | os.O_NONBLOCK)
      break
    except OSError:   # it has not come to read
      time.sleep(0.05)
  process.send_signal(number)
  printed, errors = process.communicate(timeout=120)
  os.close(pipe)
  assert process.returncode == 128 + number and "Traceback" not in errors, errors
  assert shlex.split(printed.split("run the same command:\n")[1]) == command
  assert sorted(p.name for p in tmp_path.iterdir()) == ["config.json", "manifest.json",
                                                        "metrics.json"]


def same_predictions(folder, tiny_run):
  fingerprint = lambda run: json.loads((run / "data.json").read_text())["fingerprint"]
  assert fingerprint(folder) == fingerprint(tiny_run.folder)
  table = pd.read_parquet(folder / "predictions.parquet")
  # that run has yardsticks, and what is chosen may be the stack with them
  own = [column for column in table if not column.startswith("p_chosen_")]
  pd.testing.assert_frame_equal(table[own], tiny_run.table[own], check_exact=True)
  records = files.history(folder)
  assert [r["epoch"] for r in records] == list(range(1, 7))
