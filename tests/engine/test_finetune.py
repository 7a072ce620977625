"""A BERT trained inside a whole run, from token ids to predictions of new patients, beside a set of
images."""

import dataclasses

import jax
import numpy as np
import pandas as pd
import pytest

from crl_jax import config as config_lib
from crl_jax.backbones import bert
from crl_jax.data import cohort as cohort_lib, sources
from crl_jax.data.text import encode
from crl_jax.engine import checkpoint, yardsticks
from crl_jax.serve import export, predict, predictor as predictor_lib


@pytest.fixture(scope="module")
def finetuned(tiny_config, make_bert, finish, tmp_path_factory):
  """(finished run, folder of its cohort): notes that tell the outcome, and two images a row."""
  folder = tmp_path_factory.mktemp("finetune")
  # one layer, kept in the forward pass: compiling is the time of these tests
  model = make_bert(folder / "bert", num_hidden_layers=1, hidden_act="relu")
  c = config_lib.override(tiny_config, [
      f"text.model={model}", "text.finetune=True", "text.checkpoint=False", "text.window=12",
      "text.overlap=2", "text.finetune_windows=2", "text.dropout=0.0",
      "model.crl_mmnar.reconstruction=False",
      "train.pretrain.epochs=0", "train.joint.epochs=4", "train.joint.learning_rate=0.01",
      "train.ema=0.5"])
  simulated = sources.build_cohort(c)
  n = len(simulated)
  sick = np.nan_to_num(simulated.labels).any(1)
  notes = np.where(simulated.observed[:, 2], np.where(sick, "has pain. x1 the", "no pain. the"), "")
  images = np.zeros((n, 3, 6), np.float32)
  images[simulated.observed[:, 1]] = np.nan
  images[simulated.observed[:, 1], 1] = simulated.inputs["image"][simulated.observed[:, 1]]
  cohort = dataclasses.replace(
      simulated, kinds={"image": "set"},
      inputs={**simulated.inputs, "image": images, "discharge": encode.inputs(notes.tolist(), c)},
      features={**simulated.features, "discharge": encode.names(c)})
  cohort_lib.save(cohort, folder / "cohort")
  c = config_lib.override(c, ["data.cohort=saved", f"data.root={folder / 'cohort'}"])
  return finish(c, folder / "run"), folder / "cohort"


@pytest.mark.slow
def test_bert_is_trained_from_its_folder_on(finetuned):
  done, _ = finetuned
  model = done.config.text.model
  found = checkpoint.restore(done.folder / "checkpoints" / "final")[1]
  before = bert.read_params(model, bert.read_architecture(model))
  after = found["params"]["encode_discharge"]["bert"]
  moved = jax.tree.map(lambda a, b: float(np.abs(a[0] - b).max()), after, before)
  # at most the learning rate times text.learning_rate a step, of 4 epochs of 6 steps or so
  assert all(0 < m < 0.1 * 0.01 * 60 for m in jax.tree.leaves(moved))
  with_note = done.table[(done.table.role == "test") & (done.table.pattern >= 4)]
  label = with_note.y_readmission
  assert with_note.p_base_readmission[label == 1].mean() > (
      with_note.p_base_readmission[label == 0].mean())


@pytest.mark.slow
def test_new_patients_are_predicted_from_token_ids(finetuned, quickly, tmp_path):
  done, cohort = finetuned
  with quickly():
    table = predict.predict(done.folder, cohort, tmp_path / "p.parquet").table
  test = done.table[done.table.role == "test"].set_index("row_id")
  again = table.set_index("row_id").loc[test.index]
  np.testing.assert_allclose(again.p_base_mortality, test.p_base_mortality, atol=1e-5)
  assert len(pd.read_parquet(tmp_path / "p.parquet")) == 300


@pytest.mark.slow
def test_token_ids_go_into_an_exported_model(finetuned, quickly):
  done, cohort = finetuned
  with quickly():
    predictor = predictor_lib.load(done.folder)
  rows = cohort_lib.load(cohort).take(np.arange(8))
  staged, weights = export.stage(predictor)
  found = jax.jit(jax.export.deserialize(staged.serialize()).call)(
      weights, rows.inputs, rows.observed)
  for a, b in zip(found, predictor(rows.inputs, rows.observed)):
    np.testing.assert_allclose(a, b, atol=1e-6)


def test_yardsticks_see_the_mean_of_a_set_and_the_counts_of_words():
  sets = np.zeros((2, 3, 2), np.float32)
  sets[0, :2] = [[1, 2], [3, 4]]
  ids = np.array([[[5, 5, 0], [7, 0, 0]], [[9, 0, 0], [0, 0, 0]]], np.int32)
  observed = np.array([[True, True], [True, False]])
  x = yardsticks.design_matrix({"a": sets, "b": ids}, observed, ("a", "b"),
                               {"a": "set", "b": "text"})
  assert x.shape == (2, 2 + yardsticks.WORDS + 2)
  assert x[0, :2].tolist() == [2, 3] and x[1, :2].tolist() == [0, 0]
  words = x[:, 2:-2]
  np.testing.assert_allclose(words[0, [5, 7]], np.log([3, 2]), rtol=1e-6)
  assert (words[0] > 0).sum() == 2 and not words[1].any()


@pytest.mark.slow
def test_notes_read_by_another_bert_are_refused(finetuned):
  done, folder = finetuned
  cohort = cohort_lib.load(folder)
  facts = predictor_lib.read_run(done.folder)[1]
  about = lambda digest: {"modality_facts": {"discharge": {"model": digest}}}
  given = lambda digest: dataclasses.replace(cohort, info={**cohort.info, **about(digest)})
  predict.require_same_inputs({**facts, **about("a" * 64)}, given("a" * 64), "run")
  with pytest.raises(ValueError, match="BERT that reads 'discharge' is not the one"):
    predict.require_same_inputs({**facts, **about("a" * 64)}, given("b" * 64), "run")
