"""Training curves survive kills: cut lines, records past the last checkpoint, members apart."""

import errno
import json
import struct

from crl_jax import files
from crl_jax.engine import writer


def write(folder, *records):
  with writer.Writer(folder) as log:
    for member, epoch in records:
      log.write(member, "joint", epoch, {"loss": 1.0 / epoch})


def epochs(folder, member):
  return [r["epoch"] for r in files.history(folder) if r["member"] == member]


def test_records_come_back_and_what_is_not_finite_is_null(tmp_path):
  assert files.history(tmp_path) == []
  with writer.Writer(tmp_path) as log:
    log.write("m", "pretrain", 1, {"loss": 0.5, "auroc": float("nan"), "norm": float("inf")})
  assert files.history(tmp_path) == [
      {"member": "m", "stage": "pretrain", "epoch": 1, "loss": 0.5, "auroc": None, "norm": None}]
  assert list((tmp_path / "events" / "m").glob("events.out.tfevents.*"))


def test_rewind_forgets_later_epochs_of_all_members(tmp_path):
  write(tmp_path, ("a", 1), ("b", 1), ("a", 2), ("b", 2), ("a", 3))
  with writer.Writer(tmp_path) as log:
    log.rewind(1)
  assert epochs(tmp_path, "a") == [1] and epochs(tmp_path, "b") == [1]
  write(tmp_path, ("a", 2))
  assert epochs(tmp_path, "a") == [1, 2]


def test_rewind_drops_a_line_cut_short_and_works_on_an_empty_folder(tmp_path):
  with writer.Writer(tmp_path) as log:
    log.rewind(5)
  assert files.history(tmp_path) == []
  write(tmp_path, ("a", 1), ("a", 2))
  path = tmp_path / "metrics.jsonl"
  path.write_text(path.read_text() + '{"member": "a", "sta')
  assert epochs(tmp_path, "a") == [1, 2]
  with writer.Writer(tmp_path) as log:
    log.rewind(2)
  assert (all(json.loads(line) for line in path.read_text().splitlines())
          and not (tmp_path / "metrics.jsonl.part").exists())
  write(tmp_path, ("a", 3))
  assert epochs(tmp_path, "a") == [1, 2, 3]


def test_tensorboard_reads_the_scalars_of_every_epoch(tmp_path):
  from tensorboardX.proto.event_pb2 import Event, SessionLog
  write(tmp_path, ("a", 4), ("a", 5))
  path, = (tmp_path / "events" / "a").iterdir()
  content, found = path.read_bytes(), []
  while content:   # length, its checksum, an event, its checksum
    length = struct.unpack("<Q", content[:8])[0]
    found.append(Event.FromString(content[12:12 + length]))
    content = content[16 + length:]
  assert found[0].file_version == "brain.Event:2"
  assert (found[1].session_log.status, found[1].step) == (SessionLog.START, 4)
  scalars = [(e.step, v.tag, round(v.simple_value, 3)) for e in found[2:] for v in e.summary.value]
  assert scalars == [(4, "loss", 0.25), (5, "loss", 0.2)]


def test_events_that_cannot_be_written_are_one_warning(tmp_path, monkeypatch, caplog):
  from tensorboardX import record_writer
  written = []

  def full(_, data):
    written.append(data)
    raise OSError(errno.ENOSPC, "No space left on device")

  monkeypatch.setattr(record_writer.RecordWriter, "write", full)
  write(tmp_path, *(("a", epoch) for epoch in range(1, 30)))   # more than a queue of events takes
  assert epochs(tmp_path, "a") == list(range(1, 30)) and len(written) == 1
  assert [r.getMessage() for r in caplog.records] == [
      "TensorBoard's events could not be written (No space left on device)."]
