"""Where the rows of a csv file end: its quotes, followed byte by byte while the file is read.

Every parser ends a row at a line break outside quotes. One stray quote, and the rows up to the next
quote become text of a single field; nothing else about the file need look odd. Two things betray
it: a closing quote that ends no field, and a field that holds the end and the beginning of a row.
"""

import functools
import re

LONGEST_ROW = 4 << 20   # bytes; the longest clinical notes are a hundredth of it

# a time without a zone: one with a zone would be shifted silently
TIME = r"\d{4}-\d\d-\d\d([ T]\d\d:\d\d(:\d\d([.]\d+)?)?)?"

# A quoted value with its closing quote, if that is there. A quote inside an unquoted value is text.
_QUOTED = re.compile(rb'"(?<=[,\n]")([^"]*+(?:""[^"]*+)*+)("?)')


def _quoted(text):
  """The matches of _QUOTED; bytes.find() reaches the next quote sooner than a search does."""
  at = text.find(b'"')
  while at >= 0:
    match = _QUOTED.match(text, at)
    if match:
      yield match
    at = text.find(b'"', match.end() if match else at + 1)


_KINDS = {"int64": r"[+-]?\d+", "float64": r"[-+.\deE]*", "timestamp": f"(?:{TIME})?",
          "string": r"[^,\n]*+", "id": r"[\w.-]*+"}


class Rows:
  """Follows the quotes through the bytes after the header.

  Attributes:
    inside: line breaks in quoted values so far.
  """

  def __init__(self, header, table):
    """Args:
      header: list of the column names.
      table: the source.Table that tells which values its columns hold, or None: then no field is
        searched for rows.
    """
    types = {c.lower(): kind for c, kind in table.types.items()} if table else {}
    self._kinds = tuple(_kind(c.strip().lower(), types) for c in header)
    self._search = table is not None
    self._row = b"\n"          # of the row that is not complete, with the line break before it
    self.inside = 0

  @property
  def open(self):
    """How many of the bytes so far are of a row that is not complete."""
    return max(len(self._row) - 1, 0)

  def take(self, block, lines):
    """What is wrong, as text, or None.

    Args:
      block: the next bytes, b"" at the end.
      lines: line breaks before them, without the header's.
    """
    if b'"' not in block and b'"' not in self._row:
      newline = block.rfind(b"\n")
      self._row = block[newline:] if newline >= 0 else self._row + block
      if len(self._row) > LONGEST_ROW:
        breaks = block.count(b"\n")
        return f"line {lines + 2 + breaks}: it is longer than 4 MB"
      return None
    text = self._row + block
    line = lambda at: lines + 2 + text.count(b"\n", 0, at) - self._row.count(b"\n")
    where = lambda at: f"line {line(at)}: a quote is not closed"
    inside = row = end = 0     # end: of the last value that holds a line break
    stop = len(text)           # of what can be judged now
    for match in _quoted(text):
      if match.end() == len(text) and block:      # the next byte tells whether it is closed
        stop = match.start()
        break
      if not match[2] or text[match.end():match.end() + 1] not in (b",", b"\r", b"\n", b""):
        return where(match.start())
      if b"\n" in match[1]:
        row = max(row, text.rfind(b"\n", end, match.start()))
        column = _QUOTED.sub(b"", text[row:match.start()]).count(b",")
        if self._search and _joint(self._kinds, column).search(match[1]):
          return where(match.start()) + "; it swallows the rows that follow"
        inside += match[1].count(b"\n")
        end = match.end()
    if len(text) - stop > LONGEST_ROW:
      return where(stop) + ", or a row is longer than 4 MB"
    row = max(row, text.rfind(b"\n", end, stop)) if block else stop
    # what of the incomplete row is seen again is counted again
    self.inside += inside - (text.count(b"\n", row, end) - 1 if row < end else 0)
    self._row = text[row:]
    return None


def _kind(column, types):
  """Pattern of the values of a column."""
  kind = types.get(column, "string")
  return _KINDS["id" if kind == "string" and column.endswith("id") else kind]


@functools.cache
def _joint(kinds, column):
  """Pattern of the end of a row and the beginning of the next as they stand in a field of `column`
  that swallowed them: all other columns, each with a value of its kind."""
  tail = "".join(f",{kind}" for kind in kinds[column + 1:])
  head = "".join(f"{kind}," for kind in kinds[:column])
  # a pattern that begins with one plain character is searched quickly
  return re.compile((f"{tail}\r?\n{head}" if tail else f"\n{head}").encode())
