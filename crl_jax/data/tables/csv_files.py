"""A csv or csv.gz file, trusted only after every byte of it was checked: checksum of the gzip
stream, encoding, NUL bytes, header, quotes (csv_rows.py). Columns are found by header name. No
message holds a value of a patient.
"""

import codecs
import collections
import concurrent.futures
import csv
import difflib
import hashlib
import re

import numpy as np
from isal import isal_zlib as zlib   # of the standard library's form, at twice the speed

from crl_jax.data.cohort import CohortError
from crl_jax.data.tables import csv_rows, names

_CHUNK = 1 << 20      # bytes that are decompressed and checked at once
_PARSED = 4 << 20     # bytes of whole rows that are parsed at once
_PARSERS = 2          # threads that parse while the caller's decompresses and checks


class Checked:
  """The bytes of a csv, decompressed where it is a csv.gz, to be read once, as UTF-8.

  What is wrong with the file is raised as CohortError by the read that meets it (and kept in
  `error`); the gzip checksum speaks at the end, so a reader has to drain the file before it trusts
  anything.

  Attributes:
    header: list of the column names; one without a name is called by its place.
    nameless: how many those are.
    lines: lines read so far without the header's.
    facts: {sha256} of the file as it lies there, once drained.
  """
  def __init__(self, path, encoding="utf-8", table=None):
    """Args:
      path, encoding: of the file.
      table: its tables.Table, by which rows that a stray quote swallowed are known; None: they are
        not looked for.
    """
    if encoding not in ("utf-8", "latin-1"):
      raise CohortError(f"data.encoding is '{encoding}'; it must be 'utf-8' or 'latin-1'.")
    self.path, self.encoding, self.error = path, encoding, None
    self.lines, self._nul, self._last, self._ended = 0, 0, b"\n", False
    self._table, self._rows = table, None
    self._sha256, self._raw, self._zip = hashlib.sha256(), b"", None
    self._zipped, self._part = names.is_zipped(path), b""    # of a character
    with open(path, "rb") as file:
      refuse_impostor(path, file.read(512), compressed=self._zipped)
    self._file = open(path, "rb")
    try:
      self._start()
    except CohortError:
      self.close()
      raise

  def _start(self):
    """Reads the first block and the header in it."""
    block = self._block()
    refuse_impostor(self.path, block[:512], compressed=False)
    if block.startswith((codecs.BOM_UTF8, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
      raise CohortError(f"{self.path.name} starts with a byte order mark. Save it as plain UTF-8.")
    head, newline, self._waiting = block.partition(b"\n")
    cells = next(csv.reader([head.decode().rstrip("\r")]), [])
    self.header = [cell if cell.strip() else f"column {i + 1}" for i, cell in enumerate(cells)]
    self.nameless = sum(not cell.strip() for cell in cells)
    self.lines -= bool(newline)
    self._rows = csv_rows.Rows(self.header, self._table)
    self._follow(self._waiting, 0)

  @property
  def records(self):
    """Lines outside quotes read so far: rows, and blank lines."""
    return self.lines - self._rows.inside

  def read(self):
    """The next bytes after the header; b"" at the end of the file."""
    block, self._waiting = self._waiting, b""
    return block or self._block()

  def whole_rows(self):
    """Yields (lines before them, bytes of whole rows), some `_PARSED` of them at a time."""
    parts, size, before = [], 0, 0
    while block := self.read():
      parts.append(block)
      size += len(block)
      whole = size - self._rows.open
      if whole >= _PARSED:
        text = b"".join(parts)
        yield before, memoryview(text)[:whole]
        parts, size = [text[whole:]], size - whole
        before = self.lines - parts[0].count(b"\n")
    if size:
      yield before, b"".join(parts)

  def _follow(self, block, lines):
    """Raises where the quotes in the next bytes are wrong."""
    if self._rows and (why := self._rows.take(block, lines)):
      self._fail(f"{why}. Download or export it again.")

  def _block(self):
    """The next bytes, decompressed and checked."""
    if self.error:
      raise self.error
    if self._ended:
      return b""
    try:
      block = self._decompress(_CHUNK)
      text = self._text(block)
      if not block:
        self._end()
    except zlib.error:
      self._fail("is damaged: its gzip checksum does not match. Download it again.")
    except UnicodeDecodeError:
      self._fail(f"is not UTF-8, near line {self.lines + 1}. If it is an old export, set "
                 "data.encoding='latin-1'.")
    self._follow(text, self.lines)
    self.lines += _count(text, b"\n")
    self._nul += _count(text, b"\0") if b"\0" in text else 0
    self._last = text[-1:] or self._last
    return text if text or not block else self._block()   # half a character: read on

  def _text(self, block):
    """The bytes `block` (b"" at the end) as UTF-8, but for a character that they cut."""
    if block.isascii() and not self._part:     # as almost every block is
      return block
    if self.encoding == "latin-1":
      return block.decode("latin-1").encode()
    text = self._part + block
    end = codecs.utf_8_decode(text, "strict", not block)[1]
    self._part = text[end:]
    return text[:end]

  def _decompress(self, size):
    """Bytes of the file, or of its gzip members, at most `size`; b"" after the last."""
    if not self._zipped:
      block = self._file.read(size)
      self._sha256.update(block)
      return block
    while True:
      if not self._raw:
        self._raw = self._file.read(_CHUNK)
        self._sha256.update(self._raw)
      ended = not self._raw
      if self._zip is None:
        self._raw = self._raw.lstrip(b"\0")     # padding after a member
        if ended:
          return b""
        if not self._raw:
          continue
        self._zip = zlib.decompressobj(31)
      block = self._zip.decompress(self._raw, size)
      if self._zip.eof:
        self._raw, self._zip = self._zip.unused_data, None
      else:
        self._raw = self._zip.unconsumed_tail
      if block:
        return block
      if ended and self._zip:
        self._fail("is cut off: its gzip stream ends early. Download it again.")

  def _end(self):
    self._ended = True
    self.lines += self._last != b"\n"
    self.facts = {"sha256": self._sha256.hexdigest()}
    self.close()
    if self._nul:
      self._fail(f"holds {self._nul} NUL bytes. Export or download it again.")

  def _fail(self, why):
    self.error = CohortError(f"{self.path.name} {why}")
    self.close()
    raise self.error from None

  def close(self):
    self._file.close()


def check(path, encoding="utf-8", table=None):
  """One pass over a csv or csv.gz. Returns the drained `Checked`. Raises CohortError."""
  file = Checked(path, encoding, table)
  while file.read():
    pass
  return file


def compare_rows(file, rows):
  """Raises CohortError where a parser found another number of rows than the drained `file` has.

  Parsers pass over blank lines; those are counted, by one more pass, only where numbers differ.
  """
  if rows == file.records:
    return
  again, blank, before = Checked(file.path, file.encoding), 0, b"\n"
  while block := again.read():
    text = before + block
    blank += len(re.findall(rb"\n(?=\r?\n)", text))
    before = re.search(rb"\n?\r?\Z", text)[0]
  if not file.records - blank <= rows <= file.records:
    raise CohortError(f"{file.path.name} has {file.records:,} rows, of which {rows:,} can be "
                      "parsed. Download or export it again.")


def batches(files, table, parts=False):
  """Yields the declared columns of `Checked` files, one after the other, as pyarrow.RecordBatches,
  parsed strictly while they are decompressed and checked: their bytes are passed over once.

  Args:
    files: `Checked`s; afterwards `file.rows` is the number of rows, `file.error` what went wrong.
    table: a tables.Table.
    parts: whether a file may have no row.
  """
  for file in files:
    yield from _parsed(file, table, parts)


def reader(parsed, table):
  """A pyarrow.RecordBatchReader of `batches`."""
  import pyarrow as pa
  return pa.RecordBatchReader.from_batches(_schema(table), parsed)


def _parsed(file, table, part):
  """Yields the pyarrow.RecordBatches of one `Checked`."""
  import pyarrow as pa
  from pyarrow import csv as arrow_csv

  picked, schema, file.rows = pick(file.path, file.header, table), _schema(table), 0
  options = arrow_csv.ConvertOptions(
      column_types={raw: schema.field(c).type for c, raw in picked.items() if raw},
      include_columns=[raw for raw in picked.values() if raw], null_values=[""],
      strings_can_be_null=True, quoted_strings_can_be_null=True)
  before = 0

  def of_oldest():
    nonlocal before
    before, parsing = waiting.popleft()
    for batch in parsing.result():
      file.rows += batch.num_rows
      yield pa.RecordBatch.from_arrays(
          [batch.column(raw) if raw else pa.nulls(batch.num_rows, schema.field(c).type)
           for c, raw in picked.items()], schema=schema)

  waiting = collections.deque()
  try:
    with concurrent.futures.ThreadPoolExecutor(_PARSERS) as pool:
      for lines, text in file.whole_rows():
        waiting.append((lines, pool.submit(_parse, text, file.header, options)))
        if len(waiting) > _PARSERS:
          yield from of_oldest()
      while waiting:
        yield from of_oldest()
    if not (file.rows or part):
      file.error = CohortError(f"{file.path.name} has a header and no row. Download it again.")
      raise file.error
  except (pa.ArrowException, OSError, ValueError) as error:
    if file.error is None:
      file.error = CohortError(_arrow_message(file, str(error), before, table, picked))
    raise file.error from None


def _parse(text, header, options):
  """The pyarrow.RecordBatches of some whole rows."""
  import pyarrow as pa
  from pyarrow import csv as arrow_csv

  try:
    return arrow_csv.read_csv(
        pa.BufferReader(pa.py_buffer(text)),
        arrow_csv.ReadOptions(use_threads=False, block_size=len(text) + 1, column_names=header),
        arrow_csv.ParseOptions(newlines_in_values=True), options).to_batches()
  except pa.ArrowInvalid as error:
    if str(error) == "Empty CSV file":     # blank lines alone
      return []
    raise


def unread(table, why):
  """A reader with the columns of `table` that raises `why` where it is read."""
  def refuse():
    raise CohortError(why)
    yield
  return reader(refuse(), table)


def _schema(table):
  import pyarrow as pa
  kinds = {"int64": pa.int64(), "float64": pa.float64(), "string": pa.string(),
           "timestamp": pa.timestamp("us")}
  return pa.schema([(c, kinds[kind]) for c, kind in table.types.items()])


def _arrow_message(file, text, before, table, picked):
  """The reason of an Arrow error, `before` lines of rows into the file, without the value or row it
  quotes."""
  row = re.search(r"Row #(\d+)", text)
  where = f", line {before + int(row.group(1)) + 1}" if row else ""
  if match := re.search(r"Expected (\d+) columns, got (\d+)", text):
    why = f"a row has {match.group(2)} fields where the header has {match.group(1)}"
  elif match := re.search(r"column #(\d+): (?:Row #\d+: )?CSV conversion error to", text):
    raw = file.header[int(match.group(1))]
    column = next(c for c, name in picked.items() if name == raw)
    return (f"{file.path.name}{where} has values of the wrong type: {column} holds one that is no "
            f"{_KINDS[table.types[column]]}. Look at this column of the file; a shifted or altered "
            "column is the usual cause.")
  elif "out of sync" in text or "straddling" in text:
    why = "a quote is not closed, or a row is longer than 4 MB"
  else:
    why = "it cannot be parsed"
  return f"{file.path.name}{where}: {why}. Download or export it again."


_KINDS = {"int64": "whole number", "float64": "number", "timestamp": "time without a zone",
          "string": "text"}


def refuse_impostor(path, head, compressed):
  """Raises CohortError where the first bytes are not those of a csv(.gz) file, saying what they
  are."""
  text = head.lstrip().lower()
  if not head.strip():
    raise CohortError(f"{path.name} is empty. Download it again.")
  if text.startswith(b"version https://git-lfs"):
    raise CohortError(f"{path.name} is a git-lfs pointer, not the file. Fetch it with 'git "
                      "lfs pull'.")
  if text.startswith((b"<!doctype", b"<html", b"<?xml", b"<head", b"<body")):
    raise CohortError(f"{path.name} is a web page, not a table: the download was answered by a "
                      "login or error page. Check your credentials and download it again.")
  if compressed and not head.startswith(b"\x1f\x8b"):
    raise CohortError(f"{path.name} is not a gzip file. Download it again, or compress it "
                      "with gzip.")
  if not compressed and head.startswith((b"\x1f\x8b", b"PK\x03\x04", b"PAR1")):
    raise CohortError(f"{path.name} is a compressed or Parquet file, not a csv. Give it the name "
                      "that says so (.csv.gz, .parquet), or decompress it.")


def pick(path, header, table):
  """Returns declared column -> its name in the file (None for an absent extra one); matches by
  name, never by place."""
  found = {}
  for column in header:
    if column.strip():
      found.setdefault(column.strip().lower(), []).append(column)
  twins = [c for c in table.types if len(found.get(c.lower(), [])) > 1]
  if twins or any(len(n) > 1 for n in found.values()):
    raise CohortError(f"{path.name} has a duplicated column name"
                      f"{': ' + ', '.join(twins) if twins else ''}. Download it again, or name "
                      "the columns apart.")
  missing = [c for c in table.columns if c.lower() not in found]
  if missing:
    near = [m[0] for c in missing if (m := difflib.get_close_matches(c, _name_like(found), 1, 0.8))]
    hint = f" (it has {', '.join(near)}: renamed?)" if near else ""
    raise CohortError(f"{path.name} lacks the column{'s' if len(missing) > 1 else ''} "
                      f"{', '.join(missing)}{hint}; its header has {len(header)} columns. Use the "
                      "database version named in the README.")
  return {c: found[c.lower()][0] if c.lower() in found else None for c in table.types}


def _name_like(names):
  """Header cells that look like column names; the header of a headerless file is a patient's row,
  never shown."""
  return [n for n in names if re.fullmatch(r"[a-z][a-z_0-9]*", n)]


def _count(text, byte):
  """How often a byte is in bytes; bytes.count() searches from hit to hit."""
  return int(np.count_nonzero(np.frombuffer(text, np.uint8) == ord(byte)))
