"""BERT against an independent forward pass in NumPy, against PyTorch's where it is installed, and
the folders it refuses."""

import json
import math
import re
import subprocess
import sys

import jax
import numpy as np
import pytest
import safetensors.numpy

from crl_jax.backbones import bert

NOTES = [
    "Chief Complaint: chest pain. 67F with NSTEMI, troponin 0.42 -> 1.8, started on heparin gtt.",
    "FINDINGS: There is no focal consolidation, pleural effusion or pneumothorax. " * 5,
    "___ y/o M w/ HCV cirrhosis c/b ascites; lasix 40 mg PO BID, spironolactone 50 mg. T 38.5.",
    "ok"]


def batch(words, lengths=(9, 3, 12, 1)):
  """Random ids and which of them are seen; the rest is padding."""
  rng = np.random.default_rng(1)
  ids = rng.integers(5, words, (len(lengths), max(lengths))).astype(np.int32)
  seen = np.arange(max(lengths)) < np.array(lengths)[:, None]
  return np.where(seen, ids, 0), seen


def states(folder, ids, seen, attention=bert.attend):
  architecture = bert.read_architecture(folder)
  model = bert.Bert(architecture, attention)
  params = bert.read_params(folder, architecture)
  return np.asarray(jax.jit(model.apply)({"params": params}, ids, seen))


def erf(x):
  return np.vectorize(math.erf)(x)


ACTIVATIONS = {
    "gelu": lambda x: x * 0.5 * (1 + erf(x / math.sqrt(2))),
    "gelu_new": lambda x: 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x ** 3))),
    "relu": lambda x: np.maximum(x, 0)}


def by_hand(folder, ids, seen):
  """BERT's forward pass in float64, written from the paper and the names of the tensors."""
  w = {k: v.astype(np.float64)
       for k, v in safetensors.numpy.load_file(folder / "model.safetensors").items()}
  c = json.loads((folder / "config.json").read_text())

  def norm(x, at):
    mean, var = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
    return ((x - mean) / np.sqrt(var + c["layer_norm_eps"]) * w[at + ".LayerNorm.weight"]
            + w[at + ".LayerNorm.bias"])
  dense = lambda x, at: x @ w[at + ".weight"].T + w[at + ".bias"]
  e, heads = "embeddings.", c["num_attention_heads"]
  result = np.zeros((*ids.shape, c["hidden_size"]))
  for b, (line, real) in enumerate(zip(ids, seen)):
    x = norm(w[e + "word_embeddings.weight"][line]
             + w[e + "position_embeddings.weight"][:len(line)]
             + w[e + "token_type_embeddings.weight"][0], "embeddings")
    for i in range(c["num_hidden_layers"]):
      at = f"encoder.layer.{i}."
      q, k, v = (np.split(dense(x, f"{at}attention.self.{n}"), heads, -1)
                 for n in ("query", "key", "value"))
      mixed = []
      for h in range(heads):
        weights = np.exp(q[h] @ k[h].T / math.sqrt(q[h].shape[-1])) * real
        mixed.append(weights / weights.sum(-1, keepdims=True) @ v[h])
      x = norm(x + dense(np.concatenate(mixed, -1), at + "attention.output.dense"),
               at + "attention.output")
      inner = ACTIVATIONS[c["hidden_act"]](dense(x, at + "intermediate.dense"))
      x = norm(x + dense(inner, at + "output.dense"), at + "output")
    result[b] = x
  return result


@pytest.mark.parametrize("attention", [bert.attend, bert.attend_by_head])
@pytest.mark.parametrize("activation", sorted(ACTIVATIONS))
def test_it_is_the_forward_pass_written_by_hand(make_bert, tmp_path, activation, attention):
  folder = make_bert(tmp_path, hidden_act=activation)
  ids, seen = batch(json.loads((folder / "config.json").read_text())["vocab_size"])
  np.testing.assert_allclose(states(folder, ids, seen, attention)[seen],
                             by_hand(folder, ids, seen)[seen], atol=2e-5)


def test_long_windows_by_head_are_the_same(make_bert, tmp_path):
  """Several rounds of heads, the last one short."""
  folder = make_bert(tmp_path, max_position_embeddings=200)
  ids, seen = batch(150, (200, 190, 3, 77, 200))
  np.testing.assert_allclose(states(folder, ids, seen, bert.attend_by_head)[seen],
                             states(folder, ids, seen)[seen], atol=2e-5)


def test_padding_changes_nothing(tiny_bert):
  ids, seen = batch(90)
  other = states(tiny_bert, np.where(seen, ids, 7), seen)
  np.testing.assert_array_equal(other[seen], states(tiny_bert, ids, seen)[seen])
  short = states(tiny_bert, ids[1:2, :3], seen[1:2, :3])
  np.testing.assert_allclose(short, other[1:2, :3], atol=1e-5)


def test_a_window_of_padding_alone_is_finite_with_finite_gradients(tiny_bert):
  architecture = bert.read_architecture(tiny_bert)
  params, model = bert.read_params(tiny_bert, architecture), bert.Bert(architecture)
  ids = np.zeros((1, 4), np.int32)
  def loss(params):
    return bert.pool(model.apply({"params": params}, ids, ids > 0), ids > 0, "mean").sum()
  value, gradient = jax.jit(jax.value_and_grad(loss))(params)
  assert value == 0 and all((np.asarray(g) == 0).all() for g in jax.tree.leaves(gradient))


def test_layers_computed_again_give_the_same_gradients_and_dropout_follows_its_key(tiny_bert):
  architecture = bert.read_architecture(tiny_bert)
  params, (ids, seen) = bert.read_params(tiny_bert, architecture), batch(90)
  def gradient(checkpoint):
    model = bert.Bert(architecture, bert.attend, 0.3, checkpoint)
    return jax.jit(jax.grad(
        lambda p, key: (model.apply({"params": p}, ids, seen, key) ** 3).mean()))
  again = gradient(True)
  one, other = (again(params, jax.random.key(seed)) for seed in (1, 2))
  jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-5), one,
               gradient(False)(params, jax.random.key(1)))
  assert np.abs(one["word"] - other["word"]).max() > 1e-4


def test_names_of_models_with_a_head_old_names_and_half_precision(make_bert, tiny_bert, tmp_path):
  old = lambda n: "bert." + n.replace("LayerNorm.weight", "LayerNorm.gamma").replace(
      "LayerNorm.bias", "LayerNorm.beta")
  architecture = bert.read_architecture(tiny_bert)
  expected = bert.read_params(tiny_bert, architecture)
  same = bert.read_params(make_bert(tmp_path / "old", name=old), architecture)
  jax.tree.map(np.testing.assert_array_equal, same, expected)
  half = bert.read_params(make_bert(tmp_path / "half", dtype="float16"), architecture)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3), half, expected)
  assert {x.dtype for x in jax.tree.leaves(half)} == {np.dtype("float32")}


@pytest.fixture
def tokenize(minilm):
  from crl_jax.data.text import notes
  tokenizer = notes.Tokenizer(minilm)
  def ids(texts):
    windows = [w[0] for w, _ in tokenizer.windows(texts, 128, 0, 1)]
    result = np.zeros((len(windows), 128), np.int32)
    for line, window in zip(result, windows):
      line[:len(window)] = window
    return result
  return ids


def test_the_real_model_gives_its_published_numbers(minilm, tokenize):
  """Golden numbers of PyTorch's BertModel (torch 2.13.0, transformers 5.23.0): the first four of
  the mean vector of each note."""
  golden = [
      [-0.045544, 0.048488, -0.168307, 0.281227],
      [0.244397, -0.088785, -0.092703, 0.000851],
      [0.039817, 0.023918, -0.234176, 0.149277],
      [-0.237824, -0.30457, -0.11284, 0.087352]]
  ids = tokenize(NOTES)
  found = bert.pool(states(minilm, ids, ids > 0, bert.attend_by_head), ids > 0, "mean")
  np.testing.assert_allclose(np.asarray(found)[:, :4], golden, atol=1e-4)


def test_the_real_model_equals_pytorchs(minilm, tokenize):
  torch = pytest.importorskip("torch", reason="the reference needs torch: pip install torch")
  import transformers
  reference = transformers.BertModel.from_pretrained(str(minilm)).eval()
  ids = tokenize(NOTES)
  with torch.no_grad():
    expected = reference(torch.tensor(ids).long(),
                         torch.tensor(ids > 0).long()).last_hidden_state.numpy()
  for attention in (bert.attend, bert.attend_by_head):
    found = states(minilm, ids, ids > 0, attention)
    np.testing.assert_allclose(found[ids > 0], expected[ids > 0], atol=1e-4)


def test_a_pickle_is_refused_with_a_command_that_converts_it(make_bert, tiny_bert, tmp_path):
  folder = make_bert(tmp_path / "a folder")
  tensors = safetensors.numpy.load_file(folder / "model.safetensors")
  (folder / "model.safetensors").unlink()
  (folder / "pytorch_model.bin").write_bytes(b"")
  with pytest.raises(FileNotFoundError, match="pickle") as error:
    bert.require(folder)
  torch = pytest.importorskip("torch", reason="the conversion needs torch: pip install torch")
  torch.save({k: torch.tensor(v) for k, v in tensors.items()}, folder / "pytorch_model.bin")
  code = re.search(r'python -c "(.*)"', str(error.value)).group(1)
  subprocess.run([sys.executable, "-c", code, str(folder)], check=True)
  bert.require(folder)
  architecture = bert.read_architecture(folder)
  jax.tree.map(np.testing.assert_array_equal, bert.read_params(folder, architecture),
               bert.read_params(tiny_bert, architecture))


def test_what_is_absent_is_named_with_what_to_get(make_bert, tmp_path):
  with pytest.raises(FileNotFoundError, match="Bio_ClinicalBERT") as error:
    bert.require("")
  assert "config.text.model" in str(error.value) and "model.safetensors" in str(error.value)
  folder = make_bert(tmp_path / "x")
  bert.require(folder)
  for name in ("vocab.txt", "config.json", "model.safetensors"):
    (folder / name).rename(folder / "away")
    with pytest.raises(FileNotFoundError, match=f"lacks .*{name}"):
      bert.require(folder)
    (folder / "away").rename(folder / name)
  with pytest.raises(FileNotFoundError, match="huggingface.co/emilyalsentzer/Bio_ClinicalBERT"):
    bert.require(tmp_path / "nowhere")


@pytest.mark.parametrize("settings, message", [
    (dict(model_type="roberta"), "model_type is 'roberta'"),
    (dict(position_embedding_type="relative_key"), "position_embedding_type"),
    (dict(is_decoder=True), "is_decoder"),
    (dict(hidden_act="mish"), "hidden_act is 'mish'"),
    (dict(hidden_size="16"), "hidden_size is '16'"),
    (dict(num_hidden_layers=0), "num_hidden_layers"),
    (dict(num_attention_heads=3), "not a multiple"),
])
def test_other_architectures_are_refused_by_the_key(make_bert, tmp_path, settings, message):
  folder = make_bert(tmp_path)
  config = json.loads((folder / "config.json").read_text()) | settings
  (folder / "config.json").write_text(json.dumps(config))
  with pytest.raises(ValueError, match=message) as error:
    bert.read_architecture(folder)
  assert "config.json" in str(error.value)


def test_a_config_that_is_no_config_is_refused(tmp_path):
  for text in ("<html>", "[]", "{}"):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ValueError, match="config.json"):
      bert.read_architecture(tmp_path)


def test_damaged_weights_are_refused_by_file_and_tensor(make_bert, tmp_path):
  folder = make_bert(tmp_path)
  path, architecture = folder / "model.safetensors", bert.read_architecture(folder)
  tensors, whole = safetensors.numpy.load_file(path), path.read_bytes()
  name = "encoder.layer.1.output.dense.weight"
  for change, message in (({}, "lacks the tensor"),
                          ({name: tensors[name].T.copy()}, "is \\(24, 16\\)"),
                          ({name: tensors[name] * np.nan}, "not finite")):
    safetensors.numpy.save_file({k: v for k, v in tensors.items() if k != name} | change, path)
    with pytest.raises(ValueError, match=message) as error:
      bert.read_params(folder, architecture)
    assert name in str(error.value) and "model.safetensors" in str(error.value)
  for content in (whole[:-100], whole[:5], b"", b"<html>log in</html>"):
    path.write_bytes(content)
    with pytest.raises(ValueError, match="model.safetensors cannot be read"):
      bert.read_params(folder, architecture)
