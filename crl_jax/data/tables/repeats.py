"""Records that are there several times: a file appended to itself, a join that multiplied rows.

A record that is alike in everything that is read, its own number included where the table has one,
counts once; records that differ in anything are several.
"""


def once(records):
  """Each record of an ibis table once, and in the column `copies` how often it was there."""
  return records.group_by(records.columns).agg(copies=records.count())


def sums(records):
  """(copies, n) of records, as expressions to aggregate: how many there were, and how many differ.

  Args:
    records: of `once`, or sums of them with their number `n` and their `copies`.
  """
  return records.copies.sum(), records.n.sum() if "n" in records.columns else records.count()


def told(table, copies, n):
  """{table, rule, count} of so many records, of which `n` differ."""
  return {"table": table, "rule": "the same record again: counted once",
          "count": int(copies) - int(n)}


def again(table, records):
  """How many records of a table were there again: [{table, rule, count}]; see `sums`."""
  copies, n = sums(records)
  found = records.aggregate(copies=copies, n=n).to_pandas().fillna(0).iloc[0]
  return [told(table, *found)]


def served(source, names):
  """(name -> ibis table of `source`, odd rows) with each record of the tables `names` once."""
  tables, odd = dict(source.tables), []
  for name in names:
    records = source.keep(once(tables[name]))
    odd += again(name, records)
    if odd[-1]["count"]:
      tables[name] = records.drop("copies")
  return tables, odd
