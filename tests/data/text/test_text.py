"""Embeddings of notes: BERT's own numbers whatever the batching, computed once, killed and resumed,
and no note text anywhere."""

import logging
import pathlib
import signal
import subprocess
import sys

import jax
import numpy as np
import pytest

from crl_jax import config as config_lib
from crl_jax.backbones import bert
from crl_jax.data.text import encode, notes
from tests import compiling

ROOT = pathlib.Path(__file__).parents[3]
SECRET = "zebra"   # no log and no message may hold it


@pytest.fixture(autouse=True)
def one_device(monkeypatch, request):
  if "several_devices" not in request.node.name:
    monkeypatch.setattr(encode.processes, "select_devices", lambda _: jax.devices("cpu")[:1])


@pytest.fixture
def config(tiny_bert, tmp_path):
  c = config_lib.default().unlock()
  c.text.update(dict(model=str(tiny_bert), window=16, overlap=4, batch_tokens=64, max_windows=5,
                     cache=str(tmp_path / "cache")))
  return c


def made_up(count, seed=0):
  rng = np.random.default_rng(seed)
  words = ["the", "patient", "has", "pain", "no", "x7", SECRET]
  return [". ".join(" ".join(rng.choice(words, rng.integers(1, 6)))
                    for _ in range(rng.integers(1, 12))) for _ in range(count)]


def directly(note, config):
  """The embedding of one note without batches, padding or cache."""
  c, folder = config.text, pathlib.Path(config.text.model)
  architecture = bert.read_architecture(folder)
  params, model = bert.read_params(folder, architecture), bert.Bert(architecture)
  (windows, _), = notes.Tokenizer(folder).windows([notes.clean(note)], c.window, c.overlap,
                                                  c.max_windows)
  total, weight = 0, 0
  for window in windows:
    ids = np.zeros((1, c.window), np.int32)
    ids[0, :len(window)] = window
    states = np.asarray(_forward(model, params, ids))[0, :len(window)]
    total += len(window) * (states[0] if c.pooling == "cls" else states.mean(0))
    weight += len(window)
  return total / weight


@jax.jit
def _one(params, ids, seen):
  return _one.model.apply({"params": params}, ids, seen)


def _forward(model, params, ids):
  _one.model = model
  return _one(params, ids, ids > 0)


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_batches_of_any_notes_give_each_notes_own_embedding(config, pooling):
  config.text.pooling = pooling
  texts = made_up(12) + ["has pain. " * 60]   # the last has more windows than are kept
  seen = []
  found = encode.embed(texts, config, lambda done, total: seen.append((done, total)))
  assert found.shape == (13, encode.width(config)) == (13, len(encode.names(config)))
  assert found.dtype == np.float32 and seen[-1] == (13, 13)
  for note, vector in zip(texts, found):
    np.testing.assert_allclose(vector, directly(note, config), atol=2e-5)


def test_a_program_for_every_length_of_windows_serves_all_batches(config):
  encoder = encode.Encoder(config.text.model, 16, "mean", "float32", 64, jax.devices("cpu")[:1])
  tokenizer = notes.Tokenizer(config.text.model)
  source = lambda seed: ((i, w) for i, (w, _) in enumerate(tokenizer.windows(
      [notes.clean(t) for t in made_up(40, seed)], 16, 4, 5)))
  assert len(list(encoder(source(0)))) == 40
  compiled = encoder._forward._cache_size()
  assert compiled <= 2 * len(encoder._lengths)
  assert len(list(encoder(source(1)))) == 40
  assert encoder._forward._cache_size() == compiled


def test_what_fills_no_batch_of_its_length_shares_one_with_longer_windows(config, monkeypatch):
  encoder = encode.Encoder(config.text.model, 40, "mean", "float32", 320, jax.devices("cpu")[:1])
  computed, start = [], encoder._start
  monkeypatch.setattr(encoder, "_start", lambda length, size, windows: (
      computed.append(length * size) or start(length, size, windows)))
  # one window of every length: in batches of their own they would be 168 tokens
  windows = {n: [np.arange(5, 5 + n, dtype=np.int32)] for n in range(8, 48, 8)}
  together = dict(encoder(windows.items()))
  assert sorted(together) == sorted(windows) and sum(windows) == 120 <= sum(computed) <= 128
  for n, window in windows.items():
    alone, = dict(encoder([(n, window)])).values()
    np.testing.assert_allclose(together[n], alone, atol=1e-5)


def forbid(monkeypatch):
  def fail(*_, **__):
    raise AssertionError("computed again")
  monkeypatch.setattr(encode, "_compute", fail)


def test_what_was_computed_is_never_computed_again(config, monkeypatch):
  texts = made_up(6)
  first = encode.embed(texts, config)
  with monkeypatch.context() as patch:
    forbid(patch)
    again = encode.embed(texts[::-1] + texts[:1], config)
    np.testing.assert_array_equal(again, np.concatenate([first[::-1], first[:1]]))
    with pytest.raises(AssertionError, match="again"):
      encode.embed(texts[:1] + ["has no pain"], config)
  asked = []
  compute = encode._compute
  monkeypatch.setattr(encode, "_compute", lambda rows, *rest: asked.append(len(rows)) or
                      compute(rows, *rest))
  encode.embed(texts + ["has no pain", "has no pain"], config)
  assert asked == [1]   # what is new, once


def test_calls_one_after_another_read_and_compile_bert_once(config, monkeypatch):
  encode.release()
  made = []
  encoder, tokenizer = encode.Encoder, notes.Tokenizer
  monkeypatch.setattr(encode, "Encoder", lambda *args: made.append(0) or encoder(*args))
  monkeypatch.setattr(notes, "Tokenizer", lambda *args: made.append(1) or tokenizer(*args))
  encode._read_tokenizer.cache_clear()
  for i in range(3):
    encode.embed([f"pain {i}"], config)
  assert sorted(made) == [0, 1]
  encode.release()
  encode.embed(["pain 3"], config)
  assert sorted(made) == [0, 0, 1]


def test_another_model_or_setting_has_embeddings_of_its_own(config, make_bert, tmp_path):
  texts = made_up(3)
  first = encode.embed(texts, config)
  for key, value in (("window", 12), ("pooling", "cls"), ("overlap", 0), ("precision", "bfloat16"),
                     ("model", str(make_bert(tmp_path / "other", seed=1)))):
    other = config.copy_and_resolve_references()
    other.text[key] = value
    before = len(list((tmp_path / "cache").iterdir()))
    found = encode.embed(texts, other)
    assert len(list((tmp_path / "cache").iterdir())) == before + 1
    if key == "model":
      assert np.abs(found - first).max() > 0.1
    if key == "precision":
      assert 0 < np.abs(found - first).max() < 0.1
  other = config.copy_and_resolve_references()
  other.text.batch_tokens = 128   # changes nothing that is kept
  assert encode.facts(other) == encode.facts(config)


def test_notes_without_content_have_no_embedding(config, caplog):
  texts = ["", "  \n", "___", None, float("nan"), "has pain", b"has pain", "Name: ___\n"]
  content = encode.has_content(texts)
  assert content.tolist() == [False] * 5 + [True, True, False]
  with caplog.at_level(logging.INFO, "crl_jax"):
    found = encode.embed(texts, config)
  assert "6 without content" in caplog.text
  assert np.isfinite(found[content]).all() and np.isnan(found[~content]).all()
  np.testing.assert_array_equal(found[5], found[6])
  assert np.isnan(encode.embed(["", "___"], config)).all()
  assert encode.embed([], config).shape == (0, 16)


def test_a_share_of_cut_notes_is_told(config, caplog):
  with caplog.at_level(logging.WARNING, "crl_jax"):
    encode.embed(["has pain. " * 100, "no pain"], config)
  assert "1 of 2 notes are longer" in caplog.text and "% of" in caplog.text


def test_bytes_in_another_encoding_are_refused_by_their_place(config):
  with pytest.raises(ValueError, match="note 1 is not utf-8 at its byte 6") as error:
    encode.embed([b"fine", f"{SECRET} \xe9".encode("latin-1")], config)
  assert SECRET not in str(error.value) and "latin-1" in str(error.value)
  config.data.encoding = "latin-1"
  assert np.isfinite(encode.embed([f"{SECRET} \xe9".encode("latin-1")], config)).all()
  with pytest.raises(ValueError, match="note 0 is a int"):
    encode.embed([7], config)


def test_no_text_is_logged_kept_or_told(config, caplog, tmp_path):
  with caplog.at_level(logging.DEBUG):
    encode.embed([SECRET * 5, f"{SECRET} has pain. " * 80, f"\ud800 {SECRET}"], config)
    encode.tokens([SECRET], config)
  assert SECRET not in caplog.text
  for path in (tmp_path / "cache").rglob("*"):
    assert SECRET not in path.name
    assert path.is_dir() or SECRET.encode() not in path.read_bytes()


def test_token_ids_are_windows_with_marks_padded_with_zero(config):
  config.text.finetune, config.text.finetune_windows = True, 3
  texts = ["no pain", "has pain. " * 60, "___"]
  found = encode.inputs(texts, config)
  assert found.shape == (3, 3, 16) and found.dtype == np.int32
  assert len(encode.names(config)) == 16
  short, long, empty = found
  assert (short[1:] == 0).all() and (empty == 0).all() and (long[:, 0] == 2).all()
  length = (short[0] > 0).sum()
  assert short[0, 0] == 2 and short[0, length - 1] == 3 and (short[0, length:] == 0).all()
  all_windows, = notes.Tokenizer(config.text.model).windows([notes.clean(texts[1])], 16, 4, 10 ** 6)
  last = all_windows[0][-1]
  assert long[-1, :len(last)].tolist() == last
  config.text.finetune = False
  assert encode.inputs(texts, config).dtype == np.float32


def test_what_cannot_work_is_said_before_anything_is_read(config, make_bert, tmp_path):
  config.text.window = 64
  with pytest.raises(ValueError, match="config.text.window is 64; the BERT .* reads 40 tokens"):
    encode.require_model(config)
  config.text.window = 16
  config.text.model = ""
  for call in (encode.require_model, lambda c: encode.embed(["x"], c),
               lambda c: encode.tokens(["x"], c)):
    with pytest.raises(FileNotFoundError, match="Bio_ClinicalBERT"):
      call(config)
  folder = make_bert(tmp_path / "small", vocab_size=50)
  (folder / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"] +
                                              [f"w{i}" for i in range(60)]))
  config.text.model = str(folder)
  with pytest.raises(ValueError, match="tokenizer has 65 words, its config.json vocab_size 50"):
    encode.embed(["w1"], config)


def test_several_devices_give_the_numbers_of_one(config, tmp_path, monkeypatch):
  texts = made_up(6)
  several = encode.embed(texts, config)   # the eight of the test session
  config.text.cache = str(tmp_path / "one")
  monkeypatch.setattr(encode.processes, "select_devices", lambda _: jax.devices("cpu")[:1])
  np.testing.assert_allclose(encode.embed(texts, config), several, atol=1e-5)


_WORK = """
import sys, time
from crl_jax import config as config_lib
from crl_jax.data.text import encode
sys.path.insert(0, {tests!r})
import test_text
c = config_lib.default().unlock()
c.text.update(dict(model=sys.argv[1], cache=sys.argv[2], window=16, overlap=4, batch_tokens=64,
                   max_windows=5))
encode._SECONDS = 0.0
add = encode._add
def slow(*args):
  add(*args)
  print("added", flush=True)
  time.sleep(float(sys.argv[3]))
encode._add = slow
encode.embed(test_text.made_up(60), c)
"""


def started(config, pause):
  code = _WORK.format(tests=str(pathlib.Path(__file__).parent))
  return subprocess.Popen([sys.executable, "-c", code, config.text.model, config.text.cache, pause],
                          cwd=ROOT, stdout=subprocess.PIPE, text=True,
                          env=compiling.environment())


def test_a_killed_computation_goes_on_and_two_at_once_agree(config, monkeypatch):
  killed = started(config, "0.05")
  for _ in range(3):
    assert killed.stdout.readline() == "added\n"
  killed.send_signal(signal.SIGKILL)
  killed.wait()
  files = len(list(pathlib.Path(config.text.cache).rglob("*.npy")))
  assert 3 <= files < 60
  asked = []
  compute = encode._compute
  monkeypatch.setattr(encode, "_compute",
                      lambda rows, *rest: asked.append(len(rows)) or compute(rows, *rest))
  both = started(config, "0"), started(config, "0")
  assert [p.wait() for p in both] == [0, 0] and all(p.stdout.read() for p in both)
  forbid(monkeypatch)
  found = encode.embed(made_up(60), config)
  assert not asked
  for i in (0, 17, 59):
    np.testing.assert_allclose(found[i], directly(made_up(60)[i], config), atol=2e-5)
