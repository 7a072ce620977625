"""The ETL benchmark runs, and counts what it says it counts."""

from experiments import etl_benchmark


def test_the_benchmark_counts_and_times_the_files(tmp_path, capsys):
  etl_benchmark.simulate(tmp_path / "files", rows=60_000, patients=100, seed=0)
  found = etl_benchmark.measure(tmp_path / "files", cores=1)
  large = found["build"]["inputs"]["chartevents"] + found["build"]["inputs"]["labevents"]
  assert 30_000 < large < 120_000
  lines = {x["lines"] for x in found["gzip"]}
  assert len(lines) == 1 and lines.pop() > large
  assert found["cores"] == 1 and found["build"]["rss"] > 50 << 20
  assert found["build"]["rows"] == found["cached"]["rows"] > 50
  assert found["cached"]["build"] < found["build"]["build"] < found["build"]["seconds"]
  text = etl_benchmark.table(found)
  assert "| files to cohort |" in text and "| cached start |" in text
  assert f"{large:,} rows of chartevents and labevents" in text


def test_the_table_compares_with_the_faster_decompression():
  side = dict(build=1.0, rows=10, patients=5, inputs=dict(chartevents=7, labevents=3), rss=2**30,
              cpu=3.5, lines=12)
  text = etl_benchmark.table(dict(
      cores=2, gzip=[dict(side, seconds=4.0), dict(side, seconds=2.0)], files=2, bytes=2**30,
      build=dict(side, seconds=5.0), cached=dict(side, seconds=1.0)))
  assert "| files to cohort | 5.0 | 2.50 | 3.5 | 1.00 |" in text and "10 rows" in text
