"""The benchmark driver: every part that trains runs and fills its table, at toy sizes."""

import pytest

from experiments import benchmarks, engine_benchmark
from experiments.benchmarks import accelerator, growth, setup, step, training

SMALL = ("data.simulate.sizes=(6, 20, 12, 12)", "model.width=16", "model.heads=4")


@pytest.mark.slow
@pytest.mark.parametrize("part", ["training", "step", "members"])
def test_a_part_fills_its_table(part, monkeypatch, tmp_path):
  monkeypatch.setattr(training, "CASES", (("all", 32),))
  monkeypatch.setattr(step, "CASES", (("one", 32),))
  options = benchmarks.Options(rows=600, steps=2, repeats=1, settings=(
      *SMALL, "members.folds=2", "members.seeds=2"))
  text = engine_benchmark.run([part], options, tmp_path)
  lines = [x for x in text.splitlines() if x.startswith(f"| {part}") or x.startswith("| step")]
  assert len(lines) >= 5 and "nan" not in "".join(lines)
  assert (tmp_path / "engine_benchmark.csv").read_text().count("\n") == len(lines) + 1


@pytest.mark.slow
def test_an_accelerator_is_timed_at_every_precision_and_with_members(monkeypatch):
  monkeypatch.setattr(accelerator, "CASES", ((32, 1, 1), (32, 2, 1)))
  lines = accelerator.rows(benchmarks.Options(rows=600, steps=2, repeats=1, settings=SMALL))
  parts = [found["part"] for found in lines]
  assert [parts.count(f"accelerator, batch 32, {p}, {m}") for p in ("float32", "bfloat16")
          for m in ("1 member", "2 members")] == [2, 3, 2, 3]
  assert all(found["value"] > 0 for found in lines)


@pytest.mark.slow
def test_growth_trains_rows_on_disk_in_a_process_with_a_memory_limit():
  options = benchmarks.Options(rows=600, settings=SMALL)
  seconds, peak = growth.rows(options)
  assert seconds["measure"].startswith("600 rows") and seconds["value"] > 0
  assert 0 < peak["value"] < growth.LIMIT and peak["ratio"] == growth.LIMIT / peak["value"]


def products_by_hand(config, spec):
  """Operations of a step's matrix products, 2 for each weight and row forward, twice that
  backward, but for the inputs' gradient, which nobody needs. Of the full method with one fusion
  layer and model.crl_mmnar.hide "all".
  """
  B, D, M = config.train.batch_size, config.model.width, len(spec.modalities)
  S = M + 1                          # tokens, with that of the pattern
  V = M + 1                          # views: all, and each modality hidden
  first = sum(shape[0] * 2 * D for shape in spec.shapes.values()) + M * D
  encoders = M * (2 * D * D + D * D)
  missingness = D * D + D * D + D * M + D * M * D     # z, its decoder, gates
  shared = S * 3 * D * D + S * S * D                  # query, key, value; scores
  views = V * (S * S * D + S * D * D + S * 4 * D * D)   # mixing, output, feed-forward
  decoders = M * 2 * D * D
  heads = sum((1 + (t in config.loss.deeper)) * D * D + D for t in spec.tasks)
  contrastive = B * M * D
  inner = encoders + missingness + shared + views + decoders + heads + contrastive
  return 2 * B * (2 * first + 3 * inner)


def test_operations_counted_by_hand_are_those_of_the_step():
  options = benchmarks.Options(rows=400, steps=1, repeats=1, settings=SMALL)
  prepared = setup.prepare(options)
  config = setup.settings(options, "model.crl_mmnar.hide=all", "train.batch_size=32", "model.width=64")
  bench = setup.Bench(config, prepared, steps=1)
  counted = training.HostLoop(bench, prepared.data).flops()
  assert counted == products_by_hand(config, prepared.spec)
