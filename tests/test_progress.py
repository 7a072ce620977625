"""What a command is doing: a bar on a terminal, elsewhere a line in 30 seconds."""

import io
import logging

import pytest

from crl_jax import progress


@pytest.fixture
def clock(monkeypatch):
  """now[0] is the time."""
  now = [0.0]
  monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
  return now


def test_a_log_gets_a_line_in_thirty_seconds_and_the_last_one(clock, caplog):
  caplog.set_level(logging.INFO, "crl_jax")
  with progress.stage("Training", 100, io.StringIO()) as update:
    for done in range(21, 101):   # of a run that goes on after its 20th epoch
      clock[0] += 2
      update(done, f"epoch {done}")
    update(100, "epoch 100 of another member")
  assert caplog.messages[0] == "Training ..." and caplog.messages[-1] == "Training: done in 3 min"
  told = caplog.messages[1:-1]
  assert len(told) == 6 and told[-1] == "Training: epoch 100"
  assert told[0] == f"Training: epoch 35 (35 of 100, {2 * 65 / 60:.0f} min left)"


def test_what_the_first_unit_compiles_is_no_epochs_time(clock, caplog):
  caplog.set_level(logging.INFO, "crl_jax")
  with progress.stage("Training", 10, io.StringIO()) as update:
    update(0, "preparing")
    for done, seconds in ((1, 60), (2, 5), (3, 31)):
      clock[0] += seconds
      update(done, f"epoch {done}")
  assert caplog.messages[1:3] == ["Training: epoch 1 (1 of 10, at most 9 min left)",
                                  "Training: epoch 3 (3 of 10, 2 min left)"]


def run(clock, caplog, size):
  """What is told while 10 of 20 epochs are done, of a command with two stages after them."""
  caplog.clear()
  with progress.plan(("Training", "Evaluating fold 0", "Evaluating fold 1", "Reporting")) as plan:
    plan.size = size
    with progress.stage("Training", 20, io.StringIO()) as update:
      for done in range(1, 12):
        clock[0] += 4
        update(done, "epoch")
    for name, seconds in (("Evaluating fold 0", 300), ("Evaluating fold 1", 500), ("Reporting", 40)):
      with progress.stage(name, stream=io.StringIO()):
        clock[0] += seconds
  return next(line for line in caplog.messages if "left" in line)


def test_the_time_left_counts_the_stages_to_come(clock, caplog, monkeypatch, tmp_path):
  monkeypatch.setenv("CRL_JAX_CACHE", str(tmp_path / "cache"))
  caplog.set_level(logging.INFO, "crl_jax")
  assert run(clock, caplog, 100) == (
      "Training: epoch (8 of 20, 48 s left and what comes then: Evaluating fold 0, "
      "Evaluating fold 1, Reporting)")
  # twice the rows: twice what the other stages took
  assert run(clock, caplog, 200) == f"Training: epoch (8 of 20, {(48 + 1680) / 60:.0f} min left)"
  (tmp_path / "cache" / "stages.json").write_text("[]")
  assert "what comes then" in run(clock, caplog, 100)


def test_a_stage_that_failed_is_not_remembered(clock, monkeypatch, tmp_path):
  monkeypatch.setenv("CRL_JAX_CACHE", str(tmp_path / "cache"))
  with pytest.raises(ValueError), progress.plan(("Evaluating",)) as plan:
    plan.size = 1
    with progress.stage("Evaluating", stream=io.StringIO()):
      raise ValueError
  assert not (tmp_path / "cache").exists()


def test_a_short_stage_is_one_line(clock, caplog):
  caplog.set_level(logging.INFO, "crl_jax")
  with progress.stage("Evaluating", stream=io.StringIO()):
    clock[0] += 0.5
  assert caplog.messages == ["Evaluating ..."]


def test_a_notebook_that_has_no_log_is_told_too(clock, capsys):
  log = logging.getLogger("crl_jax")
  before = log.level
  try:
    for level, lines in (logging.NOTSET, 2), (logging.WARNING, 0):   # nobody's choice; one
      log.setLevel(level)
      with progress.stage("Evaluating", stream=io.StringIO()):
        clock[0] += 3
      assert len(capsys.readouterr().err.splitlines()) == lines
  finally:
    log.setLevel(before)


@pytest.mark.parametrize("total", [2, None])
def test_a_terminal_gets_a_bar(total):
  class Terminal(io.StringIO):
    def isatty(self):
      return True
  stream = Terminal()
  with progress.stage("Training", total, stream) as update:
    update(2, "fold 0: joint epoch 2")
  assert "joint epoch 2" in stream.getvalue() and ("100%" in stream.getvalue()) == bool(total)


@pytest.mark.parametrize("seconds, text", [(41, "41 s"), (720, "12 min"), (12240, "3.4 h")])
def test_durations(seconds, text):
  assert progress.duration(seconds) == text
