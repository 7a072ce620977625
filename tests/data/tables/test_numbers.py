"""Numbers as people write them."""

import ibis
import pandas as pd

from crl_jax.data.tables import numbers

CLEAR = {"450": 450, "7.5": 7.5, ".5": .5, "-3": -3, "+2.5": 2.5, "1e3": 1000, "40 %": 40,
         ">60": 60, "1,200": 1200, "12,345": 12345, "-1,234,567.5": -1234567.5, "7,5": 7.5,
         "0,500": .5,
         "1200,5": 1200.5, "1,23456": 1.23456, "1.200,5": 1200.5, "5,": 5, "about 3,4": 3.4,
         "10-12": 10, "12:30": 12}
UNCLEAR = ["1 200", "1'200", "1\u00a0200", "1,20,5", "1.2.3", "1,200,50", ",5", "12,34.5"]
NONE = ["ROOM AIR", "", None]


def test_numbers_in_texts():
  texts = pd.DataFrame({"t": [*CLEAR, *UNCLEAR, *NONE]}, dtype="str")
  t = ibis.memtable(texts)
  found = ibis.duckdb.connect().to_pandas(
      t.mutate(n=numbers.first(t.t), u=numbers.unclear(t.t).fill_null(False)))
  assert found["n"].tolist()[:len(CLEAR)] == list(CLEAR.values())
  assert found["n"][len(CLEAR):].isna().all()
  assert found["t"][found["u"]].tolist() == UNCLEAR
