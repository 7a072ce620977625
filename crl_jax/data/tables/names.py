"""What the file of a table may be called: one rule for every database and every engine.

Table T of a folder is, in capitals or not,
  - one file: T.csv, T.csv.gz or T.parquet;
  - numbered parts side by side, none missing: T_0.csv.gz and T_1.csv.gz, T-1, T.part-000,
    T-00000-of-00002, ...;
  - a folder T, T.csv, T.csv.gz or T.parquet of parts of one ending, whatever they are called.
Each part has a header of its own. Two of these at once, or a part that is missing, are refused:
which rows are meant cannot be known. What only looks like an absent table (T.csv.zip, "T
(1).csv.gz", my-T.csv) is not read, and told of. A folder's name is never data: key=value in it
means nothing.
"""

import difflib
import re

from crl_jax.data.cohort import CohortError

_ENDING = re.compile(r"(?:[.](?:snappy|gz|gzip|zstd|lz4|brotli))?[.]parquet$|[.]csv(?:[.]gz)?$",
                     re.IGNORECASE)
_NUMBER = re.compile(r"[ ._-]?(?:part|chunk|split|shard)?[ ._-]?(\d+)(?:[ ._-]?of[ ._-]?(\d+))?")
# in a folder of parts, beside them: of Spark, of the file system, of the publisher
_ABOUT = re.compile(r"[.].*|_(?!.*[.](csv|csv[.]gz|parquet)$).*|.*[.](crc|md5|sha256)"
                    r"|(sha256sums|license|readme|index[.]html).*", re.IGNORECASE)


def is_parquet(path):
  return path.suffix.lower() == ".parquet"


def is_zipped(path):
  return path.suffix.lower() == ".gz"


def find(folders, tables):
  """table -> tuple of the files that hold it, of those of `tables` that lie in `folders` (which
  count as one). Raises CohortError where a table is there twice or not whole."""
  entries = [path for folder in folders for path in sorted(folder.iterdir())]
  found = {}
  for table in tables:
    whole, parts = [], []
    for path in entries:
      stem, ending = split(path.name)
      rest = stem.lower().removeprefix(table.lower())
      if rest == stem.lower() or not (ending or path.is_dir()):
        continue
      if not rest and (ending or _holds_parts(path)):
        whole.append(path)
      elif ending and not path.is_dir() and (number := _NUMBER.fullmatch(rest)):
        parts.append((int(number[1]), int(number[2] or 0), path))
    if forms := whole + [path for _, _, path in parts[:1]]:
      if len(forms) > 1:
        raise CohortError(f"{forms[0].parent} holds both {forms[0].name} and {forms[1].name}: "
                          f"table {table} is there {len(forms)} times. Keep one.")
      found[table] = _numbered(table, sorted(parts)) if parts else _files(table, *whole)
  return found


def look_alikes(folders, table, known):
  """Names in `folders`, and one folder below, of what may be meant as `table` but is not read.

  Args:
    known: names of tables; their files are meant as themselves.
  """
  plain = lambda name: re.sub("[^a-z0-9]", "", name.lower())
  known, wanted = {plain(name) for name in known}, plain(table)
  found = {}
  for folder in folders:
    below = [path for path in sorted(folder.iterdir()) if not path.name.startswith(".")]
    for path in below + [p for d in below if d.is_dir() for p in sorted(d.iterdir())]:
      stem = plain(re.sub(r"([.]\w{1,10})+$", "", path.name))
      alike = stem.startswith(wanted) or stem.endswith(wanted) or difflib.SequenceMatcher(
          None, stem, wanted).ratio() > 0.85
      if alike and (stem == wanted or stem not in known) and not (
          path.is_dir() and not split(path.name)[1]):
        found[path.relative_to(folder).as_posix()] = None
  return list(found)


def told(folders, table, known):
  """What to say of an absent table of which look_alikes() are there; "" where none are."""
  seen = ", ".join(look_alikes(folders, table, known)[:3])
  return (f"Table {table} is absent, but {seen} is there, which is not read: expected is "
          f"{table}.csv.gz, {table}.csv, {table}.parquet, or parts {table}_0.csv.gz, "
          f"{table}_1.csv.gz, ..." if seen else "")


def label(table, path):
  """The name of a table's file, with its folder where that is a folder of parts."""
  folder = split(path.parent.name)[0].lower() == table.lower()
  return f"{path.parent.name}/{path.name}" if folder else path.name


def split(name):
  """(name without the ending, ending) where `name` ends as a table's file, else (name, "")."""
  at = match.start() if (match := _ENDING.search(name)) else len(name)
  return name[:at], name[at:].lower()


def _holds_parts(folder):
  return any(split(path.name)[1] for path in folder.iterdir())


def _files(table, path):
  """The files of a whole table: `path`, or those in it."""
  if not path.exists():
    raise CohortError(f"{path.name} is a link to nothing. Fetch the file itself.")
  if not path.is_dir():
    return (path,)
  parts = [part for part in sorted(path.iterdir()) if not _ABOUT.fullmatch(part.name)]
  for part in parts:
    if part.is_dir() or not split(part.name)[1]:
      raise CohortError(f"The folder {path.name} of table {table} holds {part.name}, which is no "
                        "csv, csv.gz or Parquet file; a folder's name is never data. Write the "
                        "table as files beside each other, with every column in them.")
  return _alike(table, parts) if parts else _nothing(path)


def _nothing(path):
  raise CohortError(f"The folder {path.name} holds no csv, csv.gz or Parquet file. Fetch its "
                    "parts, or remove it.")


def _numbered(table, parts):
  """The files of numbered parts, (number, of how many or 0, path) each."""
  numbers, names = [n for n, _, _ in parts], ", ".join(path.name for _, _, path in parts[:3])
  if len(set(numbers)) < len(numbers):
    raise CohortError(f"Table {table} has two parts of one number among {names}, ... Keep one.")
  gaps = set(range(min(1, numbers[0]), numbers[-1] + 1)) - set(numbers)
  of = max(of for _, of, _ in parts)
  if gaps or of > len(parts):
    raise CohortError(f"Table {table} is there in {len(parts)} numbered parts ({names}, ...), but "
                      f"not whole: {f'part {min(gaps)}' if gaps else f'of {of}'} is not. Fetch "
                      f"what is missing, or name the parts {table}_0.csv.gz, {table}_1.csv.gz, ...")
  return _alike(table, [path for _, _, path in parts])


def _alike(table, paths):
  """The paths as a tuple. Raises CohortError where they are of several endings."""
  endings = {split(path.name)[1].rpartition(".")[2]: path.name for path in paths}
  if len(endings) > 1:
    raise CohortError(f"Table {table} is there in parts of several kinds: "
                      f"{' and '.join(endings.values())}. Keep one kind.")
  if broken := [path.name for path in paths if not path.exists()]:
    raise CohortError(f"{broken[0]} is a link to nothing. Fetch the file itself.")
  return tuple(paths)
