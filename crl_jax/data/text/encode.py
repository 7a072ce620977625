"""Notes as a model's input: embeddings by a BERT, kept on disk, or token ids to train one on.

    x = encode.inputs(texts, config)   # (n, W) float32, or (n, K, L) int32 where BERT is trained

An embedding is computed once for a text, a model and the settings it depends on, whoever asks; a
killed computation goes on where it was. No text is ever logged, put in a message or kept.
"""

import collections
import functools
import hashlib
import json
import logging
import pathlib
import tempfile
import time

import jax
import jax.numpy as jnp
import numpy as np

from crl_jax import files, processes
from crl_jax.backbones import bert
from crl_jax.data.cohort import CohortError, DiskError
from crl_jax.data.text import notes, vectors

_LOG = logging.getLogger("crl_jax")

_AT_ONCE = 256        # notes that are cleaned and tokenized together
_SECONDS = 30.0       # between two files of embeddings: what a kill costs at most
_IN_FLIGHT = 2        # batches that the device works on while the host goes on


def require_model(config):
  """Raises FileNotFoundError or ValueError, saying what to get and where to put it, unless
  config.text.model is a BERT's folder and config.text fits it. Reads no weights."""
  bert.require(config.text.model)
  found = bert.read_architecture(config.text.model)
  if config.text.window > found.max_position_embeddings:
    raise CohortError(f"config.text.window is {config.text.window}; the BERT in "
                      f"{config.text.model} reads {found.max_position_embeddings} tokens at most.")
  if config.text.finetune and found.pad_token_id:
    raise CohortError(f"{config.text.model}/config.json: pad_token_id is {found.pad_token_id}; "
                      "config.text.finetune needs 0, as all of BERT's vocabularies have it.")


def has_content(texts):
  """(n,) bool: False for a note that is absent (None, NaN), empty, white space or de-identification
  blanks alone. Such a note counts as not observed."""
  return np.array([_is_text(t) and notes.has_content(
      t.decode("utf-8", "replace") if isinstance(t, bytes) else t) for t in texts], bool)


def names(config):
  """The names of the features that inputs() delivers on its last axis."""
  if config.text.finetune:
    return tuple(f"token_{i}" for i in range(config.text.window))
  return tuple(f"embedding_{i}" for i in range(width(config)))


def width(config):
  """W of embed()."""
  return bert.read_architecture(config.text.model).hidden_size


def facts(config):
  """What embeddings and token ids depend on, for the cohort's info: JSON types, no path."""
  return {"model": _digest_of_model(pathlib.Path(config.text.model)), **_settings(config)}


def inputs(texts, config, progress=None):
  """tokens() where config.text.finetune is set, else embed()."""
  return (tokens if config.text.finetune else embed)(texts, config, progress)


def embed(texts, config, progress=None):
  """One vector per note, from the cache or from BERT.

  Args:
    texts: sequence of n notes: str, or bytes in config.data.encoding.
    config: the whole tree; config.text, config.platform and config.data.encoding are read.
    progress: called with (notes done, notes in all) now and then.
  Returns:
    (n, W) float32; NaN where has_content() is False.
  Raises:
    FileNotFoundError, ValueError: the model's folder; bytes in another encoding; no text.
    OSError: the cache cannot be written. What is done is kept.
  """
  require_model(config)
  c = config.text
  texts = [_decoded(t, i, config.data.encoding) if _is_text(t) else "" for i, t in enumerate(texts)]
  content = np.array([notes.has_content(t) for t in texts], bool)
  result = np.full((len(texts), width(config)), np.nan, np.float32)
  if not content.any():
    return result
  about = facts(config)
  store = _store(_cache(c) / _digest(json.dumps(about, sort_keys=True).encode()), result.shape[1])
  keys = np.zeros((len(texts), 32), np.uint8)
  for i in np.flatnonzero(content):
    digest = hashlib.sha256(texts[i].encode("utf-8", "surrogatepass")).digest()
    keys[i] = np.frombuffer(digest, np.uint8)
  store.refresh()
  found, result[content] = store.find(keys[content])
  todo = np.flatnonzero(content)[~found]
  _, first = np.unique(keys[todo], axis=0, return_index=True)
  unique = todo[np.sort(first)]
  _LOG.info("%d notes: %d without content, %d known, %d to embed.", len(texts),
            (~content).sum(), found.sum(), len(unique))
  if len(unique):
    _compute(unique, texts, keys, store, config,
             lambda done: progress and progress(len(texts) - len(unique) + done, len(texts)))
    store.refresh()
    found, result[todo] = store.find(keys[todo])
    if not found.all():   # a disk that loses what it took
      raise DiskError(f"{(~found).sum()} embeddings that were written cannot be read again: check "
                      "the disk of config.text.cache.")
  if progress:
    progress(len(texts), len(texts))
  return result


def tokens(texts, config, progress=None):
  """Token ids of every note, to train BERT on.

  Args:
    texts, config, progress, raises: see embed().
  Returns:
    (n, K, L) int32 with K = config.text.finetune_windows and L = config.text.window: windows with
    BERT's marks, 0 is padding; 0 alone where has_content() is False.
  """
  require_model(config)
  c = config.text
  result = np.zeros((len(texts), c.finetune_windows, c.window), np.int32)
  tokenizer = _tokenizer(config)
  for start in range(0, len(texts), _AT_ONCE):
    part = [notes.clean(_decoded(t, start + i, config.data.encoding)) if _is_text(t) else ""
            for i, t in enumerate(texts[start:start + _AT_ONCE])]
    part = [t if notes.has_content(t) else "" for t in part]
    for i, (windows, _) in enumerate(tokenizer.windows(part, c.window, c.overlap,
                                                       c.finetune_windows)):
      for k, window in enumerate(windows):
        result[start + i, k, :len(window)] = window
    if progress:
      progress(start + len(part), len(texts))
  return result


def release():
  """Frees the BERT that embed() keeps on the devices for its next call."""
  _encoder.cache_clear()


def _compute(rows, texts, keys, store, config, progress):
  """Embeds texts[rows] and adds them to the store, a file every so often."""
  c, tokenizer = config.text, _tokenizer(config)
  devices = [d for d in processes.select_devices(config.platform)
             if d.process_index == jax.process_index()]
  encoder = _encoder(_digest_of_model(pathlib.Path(c.model)), c.model, c.window, c.pooling,
                     c.precision, c.batch_tokens, tuple(devices))
  cut, clock, done = [0, 0, 0], time.monotonic(), 0

  def windows():
    for start in range(0, len(rows), _AT_ONCE):
      part = rows[start:start + _AT_ONCE]
      found = tokenizer.windows([notes.clean(texts[i]) for i in part], c.window, c.overlap,
                                c.max_windows)
      for row, (mine, count) in zip(part, found):
        cut[0] += count > len(mine)
        cut[1] += count - len(mine)
        cut[2] += count
        yield row, mine or [tokenizer.nothing]
  ready = []
  for row, vector in encoder(windows()):
    ready.append((row, vector))
    if time.monotonic() - clock > _SECONDS:
      _add(store, keys, ready)
      done += len(ready)
      ready, clock = [], time.monotonic()
      progress(done)
  _add(store, keys, ready)
  if cut[0]:
    _LOG.warning("%d of %d notes are longer than config.text.max_windows = %d windows: %.1f%% of "
                 "all windows were left out, evenly.", cut[0], len(rows), c.max_windows,
                 100 * cut[1] / cut[2])


def _add(store, keys, ready):
  if ready:
    store.add(keys[[row for row, _ in ready]], np.stack([vector for _, vector in ready]))


class Encoder:
  """BERT on batches of windows of like length: a program for every length and two numbers of rows.
  """

  def __init__(self, folder, window, pooling, precision, batch_tokens, devices):
    """Args: those of config.text, and the devices over which a batch is spread."""
    architecture = bert.read_architecture(folder)
    dtype = jnp.dtype(precision)
    mesh = jax.sharding.Mesh(np.array(devices), ("rows",))
    everywhere, split = jax.sharding.PartitionSpec(), jax.sharding.PartitionSpec("rows")
    self._rows = jax.sharding.NamedSharding(mesh, split)
    self._params = jax.device_put(
        jax.tree.map(lambda x: x.astype(dtype), bert.read_params(folder, architecture)),
        jax.sharding.NamedSharding(mesh, everywhere))
    model = bert.Bert(architecture, bert.attend_by_head if devices[0].platform == "cpu"
                      else bert.attend)
    forward = functools.partial(_pooled, model, pooling, architecture.pad_token_id)
    self._forward = jax.jit(jax.shard_map(
        forward, mesh=mesh, in_specs=(everywhere, split, split), out_specs=split, check_vma=False))
    step = -(-window // 64) * 8
    self._lengths = np.minimum(np.arange(step, window + step, step), window)
    full = {n: max(1, batch_tokens // n // len(devices)) for n in self._lengths.tolist()}
    # the last windows of a length fill several small batches rather than one large by an eighth
    self._sizes = {n: (rows * len(devices), max(1, rows // 8) * len(devices))
                   for n, rows in full.items()}

  def __call__(self, source):
    """Yields (row, vector) as they are done, for a source of (row, list of windows)."""
    waiting = {n: [] for n in self._sizes}
    wanted, parts = {}, collections.defaultdict(dict)
    running = collections.deque()

    def take(most):
      """What the oldest batches hold, once more than `most` are under way."""
      while len(running) > most:
        vectors, origins = running.popleft()
        for (row, k), vector in zip(origins, np.asarray(vectors)):
          parts[row][k] = vector
          if len(parts[row]) == len(wanted[row]):
            yield row, _mean(parts.pop(row), wanted.pop(row))

    def run(length, size):
      batch, waiting[length] = waiting[length][:size], waiting[length][size:]
      running.append((self._start(length, size, [w for _, w in batch]), [o for o, _ in batch]))

    for row, windows in source:
      wanted[row] = [len(w) for w in windows]
      for k, window in enumerate(windows):
        length = int(self._lengths[np.searchsorted(self._lengths, len(window))])
        waiting[length].append(((row, k), window))
        if len(waiting[length]) == self._sizes[length][0]:
          run(length, self._sizes[length][0])
          yield from take(_IN_FLIGHT)
    # what is left of a length and fills no batch goes along with the next longer one's
    lengths, rest = [n for n in self._sizes if waiting[n]], []
    for length in lengths:
      waiting[length], small = rest + waiting[length], self._sizes[length][1]
      while len(waiting[length]) >= (1 if length == lengths[-1] else small):
        run(length, small)
        yield from take(_IN_FLIGHT)
      rest = waiting[length]
    yield from take(0)

  def _start(self, length, size, windows):
    """The vectors (size, W), not waited for, of at most `size` windows; the rest is padding."""
    ids, count = np.zeros((size, length), np.int32), np.ones(size, np.int32)
    for line, window in zip(ids, windows):
      line[:len(window)] = window
    count[:len(windows)] = [len(w) for w in windows]
    return self._forward(self._params, *jax.device_put((ids, count), self._rows))


def _pooled(model, pooling, pad, params, ids_BxL, count_B):
  """(B, H) float32, one vector per window of `count` tokens."""
  seen_BxL = jnp.arange(ids_BxL.shape[1]) < count_B[:, None]
  # float32 means float32, on devices too whose default is less
  with jax.default_matmul_precision("highest"):
    states = model.apply({"params": params}, jnp.where(seen_BxL, ids_BxL, pad), seen_BxL)
  return bert.pool(states, seen_BxL, pooling).astype(jnp.float32)


def _mean(parts, lengths):
  """The mean over a note's windows, weighted by their tokens."""
  weights = np.array(lengths, np.float32)
  return np.stack([parts[k] for k in range(len(lengths))]).T @ (weights / weights.sum())


# What calls one after another share: reading and compiling a BERT takes seconds.
@functools.lru_cache(maxsize=1)
def _encoder(digest, *args):
  del digest   # another model in the same folder is another encoder
  return Encoder(*args)


_store = functools.lru_cache(maxsize=2)(vectors.Vectors)


def _tokenizer(config):
  return _read_tokenizer(_digest_of_model(pathlib.Path(config.text.model)), config.text.model)


@functools.lru_cache(maxsize=1)
def _read_tokenizer(digest, folder):
  del digest
  found = notes.Tokenizer(folder)
  words = bert.read_architecture(folder).vocab_size
  if found.size > words:
    raise CohortError(f"{folder}: its tokenizer has {found.size} words, its config.json vocab_size "
                      f"{words}. Take all files from one place.")
  return found


def _settings(config):
  c = config.text
  keys = ("window", "overlap", *(("finetune_windows",) if c.finetune else
                                 ("max_windows", "pooling", "precision")))
  return {"version": notes.VERSION, **{key: c[key] for key in keys}}


def _cache(c):
  folder = pathlib.Path(c.cache) if c.cache else files.user_folder()
  return pathlib.Path(_scratch().name) if folder is None else folder if c.cache else folder / "text"


@functools.cache
def _scratch():
  """A folder that lasts as long as the process."""
  return tempfile.TemporaryDirectory(prefix="crl_jax-")


def _digest_of_model(folder):
  """SHA-256 of the files that an embedding depends on."""
  paths = [folder / name for name in ("config.json", "model.safetensors", "tokenizer.json",
                                      "tokenizer_config.json", "vocab.txt")]
  lines = [f"{path.name} {_digest_of_file(path, path.stat().st_mtime_ns, path.stat().st_size)}\n"
           for path in paths if path.is_file()]
  return hashlib.sha256("".join(lines).encode()).hexdigest()


@functools.lru_cache(maxsize=16)
def _digest_of_file(path, changed, size):
  """SHA-256 of a file, read once as long as it does not change."""
  return files.sha256(path)


def _digest(content):
  return hashlib.sha256(content).hexdigest()[:32]


def _is_text(text):
  """False where there is none: None, NaN, pandas' NA."""
  return isinstance(text, (str, bytes)) or not (
      text is None or text != text or type(text).__name__ == "NAType")


def _decoded(text, index, encoding):
  if isinstance(text, str):
    return text
  if not isinstance(text, bytes):
    raise CohortError(f"note {index} is a {type(text).__name__}, not text.")
  try:
    return text.decode(encoding)
  except UnicodeDecodeError as error:
    raise CohortError(f"note {index} is not {encoding} at its byte {error.start}: if the files are "
                      "in latin-1, set config.data.encoding=latin-1.") from None
