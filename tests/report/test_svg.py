"""Figures are well-formed SVG whose marks lie where the data say."""

import re
import xml.etree.ElementTree as xml

import numpy as np
import pytest

from crl_jax.report import svg as figures

HOSTILE = "<script>alert('x')</script> & \""


def parsed(svg):
  return xml.fromstring(svg)


def numbers(path):
  return [float(v) for v in re.findall(r"-?\d+\.?\d*", path)]


@pytest.mark.parametrize("lo, hi", [(0, 1), (-0.03, 0.07), (3, 1200), (0, 3e-5), (-5, -1)])
def test_ticks_are_few_round_and_inside(lo, hi):
  found = figures.ticks(lo, hi)
  assert 2 <= len(found) <= 7 and all(lo - 1e-9 <= t <= hi + 1e-9 for t in found)
  steps = np.diff(found)
  assert np.allclose(steps, steps[0])
  assert float(f"{steps[0]:.2g}") == pytest.approx(steps[0])
  assert figures.ticks(2, 2) == [2] and figures.number(-0.5) == "\N{MINUS SIGN}0.5"


def test_a_line_goes_through_its_points_and_breaks_at_gaps():
  plot = figures.Plot((0, 10), (0, 1), "t", width=400, height=300)
  svg = plot.line([0, 5, 6, 10], [0.0, 1.0, np.nan, 0.5], "#123456").svg()
  path = next(e.get("d") for e in parsed(svg).iter("path") if e.get("stroke") == "#123456")
  assert path.count("M") == 2
  assert numbers(path) == pytest.approx(
      [plot.px(0), plot.py(0), plot.px(5), plot.py(1), plot.px(10), plot.py(0.5)], abs=0.06)
  assert plot.px(0) < plot.px(10) and plot.py(1) < plot.py(0)   # up is up


def test_a_forest_draws_value_and_interval_to_scale():
  rows = [("a", [(0.5, 0.4, 0.6, "#111111", "dot")], None), ("b", [(0.8, None, None, "#111111",
          "dot")], "said"), ("c", [(None, None, None, "#111111", "dot")], None)]
  root = parsed(figures.forest(rows, "title", zero=0.0))
  dots = [(float(e.get("cx")), float(e.get("cy"))) for e in root.iter("circle")]
  lines = [numbers(e.get("d")) for e in root.iter("path") if e.get("stroke") == "#111111"]
  assert len(dots) == 2 and dots[0][0] < dots[1][0] and dots[0][1] < dots[1][1]
  (x1, y1, x2, y2), = lines
  assert y1 == y2 == dots[0][1] and (x1 + x2) / 2 == pytest.approx(dots[0][0], abs=0.1)
  assert (x2 - x1) / (dots[1][0] - dots[0][0]) == pytest.approx(0.2 / 0.3, abs=0.01)
  said = ["".join(e.itertext()) for e in root.iter("text")]
  assert "0.500 [0.400, 0.600]" in said and "said" in said and "-" in said


def test_labels_of_a_forest_are_whole_distinct_and_inside():
  shared = "demographics+admission+apache+diagnosis+medication+laboratory+vitals+"
  rows = [(shared + end, [(0.5, 0.4, 0.6, "#111111", "dot")], None) for end in ("fluid", "notes")]
  root = parsed(figures.forest(rows, "a title much longer than the figure is wide: " * 3, "x",
                               names=[("a long name of a mark", "#111111", "dot")] * 4, width=390))
  said = "".join("".join(e.itertext()) for e in root.iter("text"))
  assert all(label in said for label, *_ in rows)
  for text in root.iter("text"):
    x, width = float(text.get("x")), 0.61 * 11 * len("".join(text.itertext()))   # of DejaVu Sans
    start = x - width * {None: 0, "middle": 0.5, "end": 1}[text.get("text-anchor")]
    assert -1 <= start and start + width <= 390 * 1.1
  beside = parsed(figures.forest([("mortality: icu", [(1, 0, 2, "#111111", "dot")], "")], "t"))
  label, = (e for e in beside.iter("text") if "".join(e.itertext()) == "mortality: icu")
  assert float(label.get("x")) >= 6.66 * 11   # as wide as it is in DejaVu Sans


def test_text_cannot_be_shrunk_below_ten_pixels():
  for svg in (figures.forest([], "t", width=720),
              figures.Plot((0, 1), (0, 1), "t", width=340).svg(),
              figures.waterfall(("a", 0), [("b", 1)], "c", "t")):
    root = parsed(svg)
    least = float(re.search(r"min-width:(\d+)px", root.get("style"))[1])
    assert float(root.get("font-size")) * least / float(root.get("width")) >= 9.95


def test_a_legend_shows_shapes_and_dashes_and_pushes_the_plot_down():
  plot = figures.Plot((0, 1), (0, 1), "t", width=340)
  height = float(parsed(plot.svg()).get("height"))
  for i in range(5):
    plot.line([0, 1], [0, 1], figures.SERIES[i], f"a long name {i}", figures.DASHES[i])
  plot.points([0.5], [0.5], "#123456", "ring", "ring")
  root = parsed(plot.svg())
  assert float(root.get("height")) > height and root.find("g").get("transform")
  dashes = [e.get("stroke-dasharray") for e in root.iter("path")
            if e.get("stroke") == figures.GREEN]
  assert dashes == [figures.DASHES[2]] * 2   # in the legend and in the plot
  assert len([e for e in root.iter("circle") if e.get("fill") == "#fff"]) == 2
  assert len(set(figures.DASHES)) == len(figures.SERIES)


def test_bars_of_a_waterfall_join_and_end_at_the_sum():
  root = parsed(figures.waterfall(("start", 0.2), [("a", 0.3), ("b", -0.1)], "end", "t"))
  bars = [(float(e.get("x")), float(e.get("x")) + float(e.get("width")), e.get("fill"))
          for e in root.iter("rect")]
  assert bars[0][1] == pytest.approx(bars[1][1], abs=0.2)   # the second ends at the first
  assert (bars[0][1] - bars[0][0]) / (bars[1][1] - bars[1][0]) == pytest.approx(3, abs=0.05)
  assert bars[0][2] != bars[1][2] and "0.400" in "".join(root.itertext())


def test_words_are_escaped_and_read_aloud():
  svg = figures.forest([(HOSTILE, [(1, 0, 2, "#000", "dot")], HOSTILE)], HOSTILE, HOSTILE,
                       names=[(HOSTILE, "#000", "dot")], describe=HOSTILE)
  plot = figures.Plot((0, 1), (0, 1), HOSTILE, HOSTILE, HOSTILE).line([0, 1], [0, 1], label=HOSTILE)
  for text in (svg, plot.svg(), figures.waterfall((HOSTILE, 0), [(HOSTILE, 1)], HOSTILE, HOSTILE)):
    root = parsed(text)
    assert root.get("role") == "img" and HOSTILE in root.get("aria-label")
    assert "<script" not in text
    assert root.find("title").text == root.get("aria-label")


def test_nothing_finite_is_survived_and_the_axis_is_not_crossed():
  plot = figures.Plot((0, 0), (1, 1), "t")
  for draw in (plot.line, plot.points):
    draw([0.0, np.nan], [np.nan, None])
  plot.band([0], [None], [1]).spread([0], [np.nan], [1])
  assert "nan" not in plot.svg() and figures.limits([None, np.nan]) == (0, 1)
  clipped = figures.Plot((0, 1), (0, 1), "t").line([0, 1], [-5, 9], "#123456")
  ys = numbers(next(e.get("d") for e in parsed(clipped.svg()).iter("path")
                    if e.get("stroke") == "#123456"))[1::2]
  assert ys == pytest.approx([clipped.py(0), clipped.py(1)], abs=0.06)


def test_a_file_of_its_own_names_its_language():
  root = parsed(figures.standalone(figures.forest([], "t")))
  assert root.tag == "{http://www.w3.org/2000/svg}svg"
