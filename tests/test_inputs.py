"""A whole run, its serving and its resumption on a cohort with a series and an image."""

import json
import os
import signal

import jax
import numpy as np
import pandas as pd
import pytest

from crl_jax import config as config_lib, models, run
from crl_jax.backbones import resnet
from crl_jax.data import cohort as cohort_lib, preprocess, stream
from crl_jax.engine import members, writer
from crl_jax.serve import explain, export, predict, predictor as predictor_lib

N, L, V, SIDE = 150, 5, 2, 8


@pytest.fixture(scope="module")
def cohort():
  """Labs, vitals over time and an X-ray, which all show one latent number; its sign is the outcome.
  """
  rng = np.random.default_rng(0)
  u = rng.normal(size=N).astype(np.float32)
  labs = (u[:, None] + rng.normal(size=(N, 3))).astype(np.float32)
  vitals = np.full((N, L, 1 + V), np.nan, np.float32)
  for i in range(N):
    steps = rng.integers(1, L + 1)
    vitals[i, :steps, 0] = np.sort(rng.uniform(0, 48, steps))
    vitals[i, :steps, 1:] = np.where(rng.random((steps, V)) < 0.7,
                                     u[i] + rng.normal(size=(steps, V)), np.nan)
  xray = rng.integers(60, 120, (N, SIDE, SIDE, 1))
  xray[:, 2:6, 2:6] += (20 * np.clip(u, -2, 2)).astype(int)[:, None, None, None]
  observed = rng.random((N, 3)) < 1 / (1 + np.exp(-u[:, None] - 1))
  observed[:, 0] = True
  inputs = {"labs": labs, "vitals": vitals, "xray": xray.astype(np.uint8)}
  for m, x in enumerate(inputs.values()):
    x[~observed[:, m]] = 0
  return cohort_lib.Cohort(
      tuple(inputs), ("death",), inputs, observed, (u > 0).astype(np.float32)[:, None],
      np.arange(N), np.arange(N), {}, {"labs": ["a", "b", "c"], "vitals": ["hours", "x", "y"],
                                       "xray": ["gray"]}, kinds={"vitals": "series"})


@pytest.fixture(scope="module", autouse=True)
def shallow():
  """A network of one block: compiling is most of the time of these tests."""
  with pytest.MonkeyPatch.context() as patch:
    patch.setitem(resnet.DEPTHS, "resnet10", ((1,), False))
    yield


@pytest.fixture(scope="module")
def config(cohort, tmp_path_factory):
  folder = tmp_path_factory.mktemp("cohorts") / "saved"
  cohort_lib.save(cohort, folder)
  c = config_lib.default().unlock()
  c.data.cohort, c.data.root = "saved", str(folder)
  c.model.width, c.model.heads, c.train.batch_size = 8, 2, 32
  c.model.crl_mmnar.reconstruction = False   # compiles faster, and no encoder knows of it
  c.vision.width, c.encoders.image = 4, "resnet10"
  c.train.pretrain.epochs, c.train.joint.epochs, c.train.joint.patience = 1, 3, 3
  c.members.folds, c.checkpoint.every_epochs = 2, 1
  c.evaluate.update(dict(bootstrap=20, yardsticks=False, informative=False))
  return c.lock()


@pytest.fixture(scope="module")
def finished(config, finish, tmp_path_factory):
  return finish(config, tmp_path_factory.mktemp("runs") / "crl")


def test_its_members_are_resumed_to_the_bit(config, finished, quickly, tmp_path, monkeypatch):
  write, epochs = writer.Writer.write, []
  def signalled(self, member, stage, epoch, scalars):
    write(self, member, stage, epoch, scalars)
    epochs.append(epoch)
    if epochs == [1, 1, 2, 2]:   # of both folds
      os.kill(os.getpid(), signal.SIGTERM)
  monkeypatch.setattr(writer.Writer, "write", signalled)
  with quickly():
    with pytest.raises(SystemExit):
      run.run(config, tmp_path / "run", "the command")
    assert epochs == [1, 1, 2, 2]
    run.run(config, tmp_path / "run", "the command")
  pd.testing.assert_frame_equal(
      pd.read_parquet(tmp_path / "run" / "predictions.parquet"), finished.table)
  assert finished.table.p_base_death.std() > 1e-3


def test_new_patients_are_predicted_exported_and_explained(config, cohort, finished, quickly,
                                                           tmp_path):
  with quickly():
    found = predict.predict(finished.folder, config.data.root, tmp_path / "new.parquet")
    run_predictor = predictor_lib.load(finished.folder)
    export.export(finished.folder, tmp_path / "model")
    explained = explain.of_run(finished.folder, rows=20)
  # every row's own prediction by the member that held it out, of the mean over both
  one = jax.tree.map(np.asarray, run_predictor.weights)
  single = dict(one, params=jax.tree.map(lambda x: x[:1], one["params"]), fold=one["fold"][:1])
  base, _ = run_predictor.compiled(single, dict(cohort.inputs), cohort.observed)
  own = finished.table[(finished.table.fold == 0) & (finished.table.role == "test")]
  np.testing.assert_allclose(np.asarray(base)[own.row_id, 0], own.p_base_death, atol=1e-6)
  assert len(found.table) == N and found.table.p_base_death.between(0, 1).all()

  model = jax.export.deserialize((tmp_path / "model" / "model.stablehlo").read_bytes())
  with np.load(tmp_path / "model" / "weights.npz") as file:
    weights = dict(file)
  some = np.resize(np.arange(20), 7)
  given = {m: x[some] for m, x in cohort.inputs.items()}
  for mine, theirs in zip(model.call(weights, given, cohort.observed[some]),
                          run_predictor(given, cohort.observed[some])):
    np.testing.assert_allclose(mine, theirs, atol=1e-6)
  about = json.loads((tmp_path / "model" / "schema.json").read_text())["inputs"]["inputs"]
  assert about["xray"]["dtype"] == "uint8" and "pixels" in about["xray"]["description"]
  assert "their time in hours" in about["vitals"]["description"]

  np.testing.assert_allclose(explained.nothing + explained.values.sum(1), explained.prediction,
                             atol=1e-5)
  assert (np.abs(explained.values).max(0) > 1e-5).all()   # each modality says something


@pytest.mark.slow
@pytest.mark.parametrize("name", ["crl_mmnar", "zero_fill", "mean_fill", *(
    name for name, about in models.MODELS.items() if about.inputs != "any")])
def test_every_model_is_trained_on_it(config, finish, tmp_path, name):
  """With all its parts; one of them with rows that stay on the host. A model that wants a kind of
  input finds it here."""
  done = finish(config_lib.override(config, [
      f"model.name={name}", "train.joint.epochs=1", "members.folds=1",
      *(["model.resnet50.depth=10"] if name == "resnet50" else ()),
      f"train.data={'streamed' if name == 'mean_fill' else 'resident'}"]), tmp_path / "run")
  assert done.table.p_base_death.between(0, 1).all() and done.table.p_base_death.std() > 1e-3
  lines = [json.loads(line) for line in open(done.folder / "metrics.jsonl")]
  assert all(np.isfinite(line["val/loss"]) for line in lines)


def test_what_no_fold_changes_is_held_once(config, cohort):
  from crl_jax import pipeline
  prepared = pipeline.prepare(config, cohort_lib.validate(cohort))
  data = members.member_data(cohort, prepared.stats)
  assert {m: x.shape for m, x in data["inputs"].items()} == {
      "labs": (2, N, 3), "vitals": (2, N, L, 2 + 2 * V), "xray": (1, N, SIDE, SIDE, 1)}
  assert data["inputs"]["xray"].dtype == np.uint8
  np.testing.assert_array_equal(
      data["inputs"]["vitals"][1], preprocess.transform(
          prepared.stats[1], cohort.inputs, cohort.observed, cohort.modalities)["vitals"])
  size = sum(x.nbytes for x in data["inputs"].values())

  class Device:
    def __init__(self, room):
      self.memory_stats = lambda: {"bytes_limit": 2 * room}

  class Programs:
    resident = staticmethod(lambda tree: tree)
  for room, streamed in ((size, False), (size - 1, True)):
    placed = members._placed(cohort, prepared.stats, Programs, config, Device(room))
    assert isinstance(placed, stream.Stream) == streamed
