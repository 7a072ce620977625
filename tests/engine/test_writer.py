"""Training curves survive kills: cut lines, records past the last checkpoint, members apart."""

import json

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
