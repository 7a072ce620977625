"""Notes -> windows of token ids: cleaning, sentence boundaries, the tokenizer of a BERT folder.

No note text is ever logged or put in a message.
"""

import logging
import pathlib
import re

import numpy as np

from crl_jax.data.cohort import CohortError

_LOG = logging.getLogger("crl_jax")

VERSION = 1   # of what this file makes of a note: a change makes cached embeddings stale

# Nothing below can take more than linear time: a note may be a megabyte of anything.
_BLANK = re.compile(r"_{3,}|\[\*\*[^\]\n]{0,200}\*\*\]")   # de-identified, MIMIC-IV and MIMIC-III
_UNREADABLE = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\u200b-\u200f\ufeff\ufffd]")
_RULE = re.compile(r"([-=~*#.+])\1{3,}")                   # ruled lines
_FIELDS = re.compile(r"^(?:[ \t]*[A-Z][A-Za-z0-9 /#-]{0,60}:\s{0,80}_{3,}[ \t.,]*)+$", re.MULTILINE)
_SPACE = re.compile(r"[^\S\n]+")
_GAP = re.compile(r"\n{3,}")
_WORD = re.compile(r"[^\W_]")
_HEADER = re.compile(r"[A-Z][A-Za-z0-9 /&,'()-]{1,60}:")
_ITEM = re.compile(r"(?:\d{1,2}[.)]|[-*#\u2022])\s")
# a full stop, and a new start; not after an initial, a number of a list or a title
_END = re.compile(r"(?<=[.?!])(?<!\b[A-Za-z]\.)(?<!\b\d\.)(?<!\b\d\d\.)(?<!\bDr\.)(?<!\bMr\.)"
                  r"(?<!\bMs\.)(?<!\bMrs\.)(?<!\bSt\.)(?<!\bNo\.)(?<!\bvs\.)\s+(?=[A-Z0-9(])")


def clean(text):
  """The note without what de-identification left (blanks, and fields and section headers that hold
  nothing else), ruled lines, unreadable characters and repeated spaces; its lines stay."""
  text = text.replace("\r\n", "\n").replace("\r", "\n")
  # a lone surrogate is no character: no tokenizer takes it
  text = text.encode("utf-8", "replace").decode("utf-8")
  text = _UNREADABLE.sub(" ", text)
  text = _BLANK.sub(" ", _FIELDS.sub("", text))
  text = _SPACE.sub(" ", _RULE.sub(" ", text))
  lines = "\n".join(line.strip() for line in text.split("\n"))
  return _GAP.sub("\n\n", lines).strip()


def has_content(text):
  """False where clean() leaves no letter and no digit: such a note is no observation."""
  return any(_WORD.search(clean(part)) for part in (text[:4096], text) if part)


def sentences(text):
  """The sentences of a cleaned note, in order.

  A blank line, a section header or an item of a list begins a new one whatever stands before; other
  line ends are a typist's. A header stays with what follows it.
  """
  blocks, begin, header = [], True, False
  for line in text.split("\n"):
    if not line:
      begin = not header   # a header's text may follow after a blank line
      continue
    starts = _HEADER.match(line)
    if begin or starts or _ITEM.match(line):
      blocks.append([line])
    else:
      blocks[-1].append(line)
    begin, header = False, bool(starts) and starts.end() == len(line)
  return [s for block in blocks for s in _END.split(" ".join(block))]


def pack(sentences, room, overlap):
  """Windows of whole sentences.

  Args:
    sentences: list of lists of token ids.
    room: tokens of a window at most; a longer sentence is cut, the parts overlapping.
    overlap: tokens at most of the sentences that a window repeats of the one before.
  Returns:
    list of lists of token ids. Every token is in one of them, in order.
  """
  parts = []
  for s in sentences:
    starts = range(0, len(s) - overlap, room - overlap) if len(s) > room else (0,)
    parts += [s[start:start + room] for start in starts]
  windows, current, size = [], [], 0
  for part in parts:
    if size + len(part) > room:
      windows.append(current)
      allowed, kept = min(overlap, room - len(part)), len(current)
      size = 0
      while kept and size + len(current[kept - 1]) <= allowed:
        kept -= 1
        size += len(current[kept])
      current = current[kept:]
    current = current + [part]
    size += len(part)
  if size:
    windows.append(current)
  return [[token for part in window for token in part] for window in windows]


def spread(windows, most):
  """At most `most` of the windows, evenly spread, the first among them and, of several, the
  last."""
  if len(windows) <= most:
    return windows
  return [windows[i] for i in np.linspace(0, len(windows) - 1, most).round().astype(int)]


class Tokenizer:
  """The tokenizer of a BERT folder, and the windows it makes."""

  def __init__(self, folder):
    """Raises CohortError, naming the folder, where transformers reads no fast tokenizer there."""
    import transformers
    try:
      found = transformers.AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
      backend = found.backend_tokenizer
    except Exception as error:   # transformers and tokenizers raise whatever they meet
      raise CohortError(f"{folder}: its tokenizer cannot be read ({type(error).__name__}): "
                        "tokenizer.json or vocab.txt is damaged. Download it again.") from error
    marks = found.cls_token_id, found.sep_token_id
    if None in marks:
      raise CohortError(f"{folder}: its tokenizer has no [CLS] or [SEP]; it is not a BERT's.")
    backend.no_truncation()
    backend.no_padding()
    backend.encode_special_tokens = True   # "[SEP]" in a note is text
    self._backend, (self._first, self._last) = backend, marks
    self.nothing = list(marks)             # the window of no text
    self.size = len(found)
    _warn_of_lower_case(folder, found)

  def windows(self, texts, window, overlap, most):
    """Per cleaned note, its windows as lists of token ids with BERT's marks, and how many there
    would be without the cap.

    Args:
      texts: list of cleaned notes.
      window: tokens of a window at most, marks included.
      overlap: see pack().
      most: windows of a note at most, see spread().
    Returns:
      list of (windows, count).
    """
    split = [sentences(text) for text in texts]
    flat = [s for note in split for s in note]
    encoded = iter([e.ids for e in self._backend.encode_batch(flat, add_special_tokens=False)])
    found = []
    for note in split:
      packed = pack([next(encoded) for _ in note], window - 2, min(overlap, (window - 2) // 2))
      found.append(([[self._first, *w, self._last] for w in spread(packed, most)], len(packed)))
    return found


def _warn_of_lower_case(folder, tokenizer):
  """Says so where a vocabulary has capitals and its tokenizer lower-cases: every capital would be
  read as another word."""
  if pathlib.Path(folder, "tokenizer_config.json").exists():
    return
  words = list(tokenizer.get_vocab())
  capital = sum(any(c.isupper() for c in w) for w in words if not w.startswith("["))
  lowers = tokenizer.backend_tokenizer.normalizer.normalize_str("A") == "a"
  if lowers and capital > len(words) // 100:
    _LOG.warning(
        "%s has words with capitals in its vocabulary, but no tokenizer_config.json, and "
        "transformers then lower-cases notes. If the model is cased (Bio_ClinicalBERT is), put "
        "there a file tokenizer_config.json with {\"do_lower_case\": false}.", folder)
