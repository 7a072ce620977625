"""BERT (Devlin et al., arXiv 1810.04805) in Flax, read from a folder of Hugging Face's layout
(config.json, model.safetensors) without torch or pickle.

Axes: B windows, L tokens, N heads, H width.
"""

import dataclasses
import functools
import json
import pathlib
from typing import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

_ACTIVATIONS = {
    "gelu": functools.partial(nn.gelu, approximate=False),
    "gelu_new": nn.gelu, "gelu_pytorch_tanh": nn.gelu, "gelu_fast": nn.gelu,
    "relu": nn.relu, "silu": nn.silu, "swish": nn.silu}

_GET = """\
Get Bio_ClinicalBERT, or any other BERT, from Hugging Face:
  hf download emilyalsentzer/Bio_ClinicalBERT config.json vocab.txt pytorch_model.bin \\
    --local-dir {folder}
or with a browser from https://huggingface.co/emilyalsentzer/Bio_ClinicalBERT/tree/main, copied to
that folder. Where the repository has model.safetensors take it instead of pytorch_model.bin, and
take tokenizer.json and tokenizer_config.json where it has them. Then set
config.text.model={folder}"""

_CONVERT = """\
{folder} has pytorch_model.bin but no model.safetensors. A .bin file is a Python pickle, which can
run any code when it is opened; crl_jax opens none. Convert it once, on any machine with torch
(pip install torch safetensors):
  python -c "import sys, torch, safetensors.torch as s; d = sys.argv[1]; w = \
torch.load(d + '/pytorch_model.bin', map_location='cpu', weights_only=True); \
s.save_file({{k: v.clone().contiguous() for k, v in w.items()}}, d + '/model.safetensors')" \
{folder}"""


@dataclasses.dataclass(frozen=True)
class Architecture:
  """What the forward pass depends on, under the names of config.json."""
  vocab_size: int
  hidden_size: int
  num_hidden_layers: int
  num_attention_heads: int
  intermediate_size: int
  max_position_embeddings: int
  type_vocab_size: int = 2
  hidden_act: str = "gelu"
  layer_norm_eps: float = 1e-12
  pad_token_id: int = 0


def attend(q, k, v, seen_BxL):
  """Softmax attention of (B, N, L, H / N) queries, keys and values over the keys that are seen; any
  device."""
  scores = _scores(q, k, seen_BxL[:, None, None])
  return nn.softmax(scores).astype(v.dtype) @ v


def attend_by_head(q, k, v, seen_BxL):
  """attend() one head at a time, whose scores stay in a processor's cache: several times as fast
  there at 512 tokens."""
  heads = q.shape[1]
  def one(args):
    (q, k, v), seen_L = args
    scores = _scores(q, k, seen_L[None])
    weights = jnp.exp(scores - scores.max(-1, keepdims=True))
    return (weights.astype(v.dtype) @ v) / weights.sum(-1, keepdims=True).astype(v.dtype)
  flat = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), (q, k, v))
  # short windows share a round: a round of a few microseconds would be mostly its overhead
  together = max(1, 2 ** 17 // q.shape[2] ** 2)
  mixed = jax.lax.map(one, (flat, jnp.repeat(seen_BxL, heads, 0)), batch_size=together)
  return mixed.reshape(q.shape)


def _scores(q, k, seen):
  scores = (q * q.shape[-1] ** -0.5) @ k.swapaxes(-1, -2)
  return jnp.where(seen, scores.astype(jnp.float32), jnp.finfo(jnp.float32).min)


class Layer(nn.Module):
  """One transformer block: the residual sums are followed by their LayerNorm."""
  architecture: Architecture
  attention: Callable
  dropout: float

  @nn.compact
  def __call__(self, x_BxLxH, seen_BxL, key):
    a = self.architecture
    first, second = (None, None) if key is None else jax.random.split(key)
    qkv = nn.Dense(3 * a.hidden_size, name="query_key_value")(x_BxLxH)
    qkv = qkv.reshape(*x_BxLxH.shape[:2], 3, a.num_attention_heads, -1)
    mixed = self.attention(*jnp.moveaxis(qkv, (2, 3), (0, 2)), seen_BxL)
    mixed = mixed.swapaxes(1, 2).reshape(x_BxLxH.shape)
    mixed = nn.Dense(a.hidden_size, name="attention_out")(mixed)
    x = _norm(a, "attention_norm")(x_BxLxH + _drop(mixed, self.dropout, first))
    inner = _ACTIVATIONS[a.hidden_act](nn.Dense(a.intermediate_size, name="inner")(x))
    outer = nn.Dense(a.hidden_size, name="outer")(inner)
    # the second value: what nn.scan collects, nothing
    return _norm(a, "norm")(x + _drop(outer, self.dropout, second)), None


class Bert(nn.Module):
  """Token ids -> hidden states of the last layer.

  Attributes:
    architecture: from read_architecture().
    attention: attend or attend_by_head.
    dropout: share of hidden units dropped where the call gets a key.
    checkpoint: compute each layer again in the backward pass instead of keeping what is in it.
  """
  architecture: Architecture
  attention: Callable = attend
  dropout: float = 0.0
  checkpoint: bool = False

  @nn.compact
  def __call__(self, ids_BxL, seen_BxL, key=None):
    """Args:
      ids_BxL: int32; L is at most max_position_embeddings.
      seen_BxL: bool, False for padding.
      key: a jax.random key, or None for no dropout.
    Returns:
      (B, L, H) in the parameters' precision; padding's states mean nothing.
    """
    a = self.architecture
    table = lambda name, rows: self.param(
        name, nn.initializers.normal(0.02), (rows, a.hidden_size))
    word, position, kind = (table("word", a.vocab_size),
                            table("position", a.max_position_embeddings),
                            table("type", a.type_vocab_size))
    x = word[ids_BxL] + (position[:ids_BxL.shape[1]] + kind[0])
    keys = None if key is None else jax.random.split(key, a.num_hidden_layers + 1)
    x = _drop(_norm(a, "norm")(x), self.dropout, None if key is None else keys[0])
    layer = nn.remat(Layer, prevent_cse=False) if self.checkpoint else Layer
    # one layer's program for all of them: compiled once, with parameters on a leading layer axis
    layers = nn.scan(layer, variable_axes={"params": 0}, split_rngs={"params": True},
                     in_axes=(nn.broadcast, nn.broadcast if key is None else 0),
                     length=a.num_hidden_layers)
    return layers(a, self.attention, self.dropout, name="layers")(
        x, seen_BxL, None if key is None else keys[1:])[0]


def _norm(architecture, name):
  return nn.LayerNorm(epsilon=architecture.layer_norm_eps, use_fast_variance=False, name=name)


def _drop(x, rate, key):
  if key is None or not rate:
    return x
  return jnp.where(jax.random.bernoulli(key, 1 - rate, x.shape), x / (1 - rate), 0).astype(x.dtype)


def pool(states_BxLxH, seen_BxL, pooling):
  """(B, H), one vector a window: the "mean" of its tokens' states or that of "cls", its first; zero
  where nothing is seen."""
  seen = seen_BxL[..., None].astype(states_BxLxH.dtype)
  if pooling == "cls":
    return states_BxLxH[:, 0] * seen[:, 0]
  return (states_BxLxH * seen).sum(1) / jnp.maximum(seen.sum(1), 1)


def require(folder, key="config.text.model"):
  """Raises FileNotFoundError, saying what to get and where to put it, unless `folder` holds a
  BERT's files; `key` is the setting that names it."""
  if not folder:
    raise FileNotFoundError(f"{key} is not set: notes are read by a BERT whose files you bring.\n"
                            + _GET.format(folder="DIR"))
  folder = pathlib.Path(folder)
  there = lambda *names: any((folder / name).is_file() for name in names)
  if there("pytorch_model.bin") and not there("model.safetensors"):
    raise FileNotFoundError(_CONVERT.format(folder=folder))
  absent = [" or ".join(names) for names in (
      ("config.json",), ("model.safetensors",), ("tokenizer.json", "vocab.txt"))
            if not there(*names)]
  if absent:
    raise FileNotFoundError(f"{key}={folder} lacks {', '.join(absent)}.\n"
                            + _GET.format(folder=folder))


def read_architecture(folder):
  """The Architecture in `folder`. Raises ValueError, naming file and key, for what this encoder
  does not compute."""
  path = pathlib.Path(folder) / "config.json"
  try:
    found = json.loads(path.read_text())
  except (OSError, ValueError) as error:
    raise ValueError(f"{path} cannot be read ({error}); download it again.") from error
  if not isinstance(found, dict):
    raise ValueError(f"{path} holds no object of settings; download it again.")
  for key, values in (("model_type", ("bert",)), ("position_embedding_type", ("absolute",)),
                      ("is_decoder", (False,)), ("hidden_act", tuple(_ACTIVATIONS))):
    if found.get(key, values[0]) not in values:
      raise ValueError(f"{path}: {key} is {found[key]!r}; this encoder reads BERT with "
                       f"{' or '.join(map(repr, values))}.")
  fields = dataclasses.fields(Architecture)
  absent = [f.name for f in fields if f.default is dataclasses.MISSING and f.name not in found]
  if absent:
    raise ValueError(f"{path} lacks {', '.join(absent)}: it is not a BERT's config.json.")
  known = {f.name: found[f.name] for f in fields if found.get(f.name) is not None}
  wrong = [f.name for f in fields if f.type is int and f.name in known
           and (type(known[f.name]) is not int or known[f.name] < (f.name != "pad_token_id"))]
  if wrong:
    raise ValueError(f"{path}: {wrong[0]} is {known[wrong[0]]!r}; a whole number is needed.")
  if known["hidden_size"] % known["num_attention_heads"]:
    raise ValueError(f"{path}: hidden_size {known['hidden_size']} is not a multiple of "
                     f"num_attention_heads {known['num_attention_heads']}.")
  return Architecture(**known)


def read_params(folder, architecture):
  """The parameters of Bert(architecture) from model.safetensors.

  Args:
    folder: holds model.safetensors, in float32, float16 or bfloat16, of BertModel or of a model
      with a head on it.
    architecture: from read_architecture(folder).
  Returns:
    tree of float32 NumPy arrays.
  Raises:
    ValueError: naming the file and the tensor that is absent, of another shape or not finite.
  """
  import safetensors
  path = pathlib.Path(folder) / "model.safetensors"
  try:
    with safetensors.safe_open(path, "numpy") as file:
      stored = {_plain(name): name for name in file.keys()}
      read = functools.partial(_read, file, stored, path)
      return _tree(read, architecture)
  except (safetensors.SafetensorError, OSError) as error:
    raise ValueError(f"{path} cannot be read ({error}): it is cut off, or no safetensors file. "
                     "Download or convert it again.") from error


def _tree(read, a):
  H, inner = a.hidden_size, a.intermediate_size
  norm = lambda name: {"scale": read(name + ".LayerNorm.weight", (H,)),
                       "bias": read(name + ".LayerNorm.bias", (H,))}
  dense = lambda name, rows, columns: {"kernel": read(name + ".weight", (columns, rows)).T,
                                       "bias": read(name + ".bias", (columns,))}

  def layer(i):
    at = f"encoder.layer.{i}."
    qkv = [dense(f"{at}attention.self.{name}", H, H) for name in ("query", "key", "value")]
    return {"query_key_value": jax.tree.map(lambda *x: np.concatenate(x, -1), *qkv),
            "attention_out": dense(at + "attention.output.dense", H, H),
            "attention_norm": norm(at + "attention.output"),
            "inner": dense(at + "intermediate.dense", H, inner),
            "outer": dense(at + "output.dense", inner, H),
            "norm": norm(at + "output")}
  layers = [layer(i) for i in range(a.num_hidden_layers)]
  return {"word": read("embeddings.word_embeddings.weight", (a.vocab_size, H)),
          "position": read("embeddings.position_embeddings.weight", (a.max_position_embeddings, H)),
          "type": read("embeddings.token_type_embeddings.weight", (a.type_vocab_size, H)),
          "norm": norm("embeddings"),
          "layers": jax.tree.map(lambda *x: np.stack(x), *layers)}


def _plain(name):
  """The name in a bare BertModel of today: models with a head put "bert." before it, the first
  checkpoints called LayerNorm's weight and bias gamma and beta."""
  name = name.removeprefix("bert.")
  return name.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta",
                                                                     "LayerNorm.bias")


def _read(file, stored, path, name, shape):
  if name not in stored:
    raise ValueError(f"{path} lacks the tensor {name}: it is not of the BERT that config.json "
                     "describes. Take both files from one place.")
  x = np.asarray(file.get_tensor(stored[name]), np.float32)
  if x.shape != shape:
    raise ValueError(f"{path}: tensor {name} is {x.shape}, config.json says {shape}. Take both "
                     "files from one place.")
  if not np.isfinite(x).all():
    raise ValueError(f"{path}: tensor {name} holds values that are not finite; download it again.")
  return x
