"""A Parquet file's columns against the declared ones, before anything of it is read."""

from crl_jax.data.cohort import CohortError

# declared kind -> kinds of columns it can be made of; the values of some are checked one by one
_USABLE = {"int64": ("int64", "float64", "string", "null"),
           "float64": ("int64", "float64", "string", "null"),
           "timestamp": ("timestamp", "string", "null"),
           "string": ("int64", "float64", "timestamp", "string", "null")}
_WORDS = {"int64": "a whole number", "float64": "a number", "timestamp": "a time without a zone",
          "string": "text"}


def kinds(path):
  """column -> "int64" | "float64" | "string" | "timestamp" | "zoned time" | "null", or the name of
  another type."""
  import pyarrow as pa
  from pyarrow import parquet
  try:
    schema = parquet.read_schema(path)
  except (pa.ArrowException, OSError, ValueError):
    raise CohortError(f"{path.name} is not a Parquet file. Download or export it again.") from None
  return {field.name: _kind(field.type) for field in schema}


def _kind(found):
  from pyarrow import types
  if types.is_dictionary(found):
    found = found.value_type
  if types.is_timestamp(found) or types.is_date(found):
    return "zoned time" if getattr(found, "tz", None) else "timestamp"
  if types.is_uint64(found) or types.is_floating(found) or types.is_decimal(found):
    return "float64"
  if types.is_integer(found):
    return "int64"
  if types.is_string(found) or types.is_large_string(found) or types.is_string_view(found):
    return "string"
  return str(found)


def check(path, found, picked, table):
  """Raises CohortError where a column cannot be what it is declared as.

  Args:
    path: of the file.
    found: its kinds().
    picked: declared column -> its name in the file, see csv_files.pick.
    table: the tables.Table.
  """
  for column, kind in table.types.items():
    has = found[picked[column]] if picked[column] else "null"
    if has == "zoned time":
      raise CohortError(f"{path.name}: {column} holds times with a zone, which would be shifted. "
                        "Write it as local time without one (pandas: .dt.tz_localize(None)).")
    if has not in _USABLE[kind]:
      raise CohortError(f"{path.name}: {column} is of type {has}, not {_WORDS[kind]}. Write this "
                        "column of the file as that.")
