"""Small SVG figures: line plots, forests and bars, each one self-contained element with a title
that is read aloud.

Text stays text, coordinates have one decimal, and nothing depends on the reader's fonts or on a
plotting library. Colours are those that colour-blind readers can tell apart (Okabe and Ito, 2008).
A Plot collects marks in data units; forest() is a list of values with intervals.
"""

import html
import math
import re

from crl_jax.report import tables

COLORS = dict(blue="#0072B2", orange="#D55E00", green="#009E73", purple="#AA4499", sky="#56B4E9",
              black="#222222", grey="#8a8f98")
SERIES = BLUE, ORANGE, GREEN, PURPLE, SKY, BLACK, GREY = tuple(COLORS.values())
DASHES = ("", "6 3", "2 2", "9 3 2 3", "12 4", "1 4", "6 2 2 2 2 2")   # beside the colours
_INK, _RULE, _SIZE = "#30343b", "#e3e5e9", 11
_LEAST = 10       # px: no text is shrunk below it, the page scrolls sideways first
# Widths of characters in ems, of a wide sans-serif font: narrower ones leave some room.
_WIDTHS = {**dict.fromkeys("ijl.,:;'|![]()fIrt -", 0.4),
           **dict.fromkeys("mwMW@%+=\N{MINUS SIGN}", 0.95),
           **dict.fromkeys("ABCDEFGHJKLNOPQRSTUVXYZ_", 0.74)}


def ticks(lo, hi, most=5):
  """Round numbers within [lo, hi], at most `most` + 1 of them, ascending; [lo] where lo == hi."""
  if not hi > lo:
    return [lo]
  raw = (hi - lo) / most
  power = 10 ** math.floor(math.log10(raw))
  step = next(s * power for s in (1, 2, 2.5, 5, 10) if s * power >= raw * (1 - 1e-9))
  first = math.ceil(lo / step - 1e-9)
  count = math.floor(hi / step + 1e-9) - first + 1
  return [round((first + i) * step, 12) for i in range(count)]


def number(value):
  """A tick's label: as few digits as tell it apart; a true minus sign."""
  return f"{value:.10g}".replace("-", "\N{MINUS SIGN}")


def finite(*values):
  """Those of `values` that are numbers."""
  return [float(v) for v in values if v is not None and math.isfinite(v)]


def limits(values, pad=0.06, include=()):
  """(lo, hi) around the finite `values` and `include`, widened by the share `pad`; (0, 1) where
  there are none."""
  known = finite(*values, *include)
  if not known:
    return 0.0, 1.0
  lo, hi = min(known), max(known)
  room = (hi - lo or abs(hi) or 1.0) * pad
  return lo - room, hi + room


class Plot:
  """A coordinate system whose marks are given in data units.

  Args:
    x, y: (lo, hi) of the axes.
    title: said by screen readers and shown above the plot.
    describe: a longer sentence for screen readers.
    xlabel, ylabel: of the axes.
    width, height: of the drawing in CSS pixels; it scales with its container.
  """

  def __init__(self, x, y, title, xlabel="", ylabel="", width=340, height=280,
               describe=""):
    self.title, self.describe = title, describe
    self._width, self._height = width, height
    self._x, self._y = (_wide(*x), _wide(*y))
    widest = max(_text_width(number(y)) for y in ticks(*self._y))
    self._left = widest + 12 + (16 if ylabel else 0)
    self._right, self._top = width - 12, 34
    self._bottom = height - (40 if xlabel else 24)
    self._marks, self._legend = [], []
    self._frame = self._axes(xlabel, ylabel)

  def px(self, x):
    """Pixel of a data x."""
    lo, hi = self._x
    return self._left + (x - lo) / (hi - lo) * (self._right - self._left)

  def py(self, y):
    """Pixel of a data y."""
    lo, hi = self._y
    return self._bottom - (y - lo) / (hi - lo) * (self._bottom - self._top)

  def line(self, xs, ys, color=BLUE, label=None, dash="", width=2.0, opacity=1.0):
    """A line through the points; it breaks where one is not finite."""
    parts, pen = [], "M"
    for x, y in zip(xs, ys):
      if not finite(x, y)[1:]:
        pen = "M"
        continue
      parts.append(f"{pen}{self._at(x, y)}")
      pen = "L"
    if parts:
      self._marks.append(
          f'<path d="{"".join(parts)}" fill="none" stroke="{color}" stroke-width="{width:g}" '
          f'stroke-linejoin="round" opacity="{opacity:g}"'
          + (f' stroke-dasharray="{dash}"' if dash else "") + "/>")
    return self._named(label, color, dash, line=True)

  def points(self, xs, ys, color=BLUE, label=None, shape="dot", radius=3.5):
    """Marks of a `shape` of `mark`."""
    for x, y in zip(xs, ys):
      if finite(x, y)[1:]:
        self._marks.append(mark(self.px(x), self.py(y), color, shape, radius))
    return self._named(label, color, shape, line=False)

  def spread(self, xs, los, his, color=BLUE, width=1.2):
    """Vertical interval lines."""
    for x, lo, hi in zip(xs, los, his):
      if finite(x, lo, hi)[2:]:
        self._marks.append(_segment(self.px(x), self.py(self._inside(lo)), self.px(x),
                                    self.py(self._inside(hi)), color, width))
    return self

  def band(self, xs, los, his, color=BLUE, opacity=0.15):
    """The area between two lines."""
    there = [(x, lo, hi) for x, lo, hi in zip(xs, los, his) if finite(x, lo, hi)[2:]]
    if there:
      edge = [self._at(x, hi) for x, _, hi in there] + [self._at(x, lo) for x, lo, _ in there[::-1]]
      self._marks.append(f'<path d="M{"L".join(edge)}Z" fill="{color}" opacity="{opacity:g}"/>')
    return self

  def svg(self):
    """The figure as one <svg> element."""
    heading, down = _title(self._left, self.title, self._width)
    legend, more = self._drawn_legend()
    down_all = lambda body, pixels: (
        f'<g transform="translate(0 {pixels})">{body}</g>' if pixels else body)
    body = down_all(self._frame + "".join(self._marks), more)
    return _root(self._width, self._height + more + down, self.title, self.describe,
                 heading + down_all(legend + body, down))

  def _axes(self, xlabel, ylabel):
    out = []
    for value in ticks(*self._y):
      y = self.py(value)
      out.append(_segment(self._left, y, self._right, y, _RULE, 1))
      out.append(_text(self._left - 6, y + 4, number(value), "end"))
    for value in ticks(*self._x):
      x = self.px(value)
      out.append(_segment(x, self._bottom, x, self._bottom + 4, _INK, 1))
      out.append(_text(x, self._bottom + 16, number(value), "middle"))
    out.append(_segment(self._left, self._bottom, self._right, self._bottom, _INK, 1))
    if xlabel:
      out.append(_text((self._left + self._right) / 2, self._height - 6, xlabel, "middle"))
    if ylabel:
      x, y = 11, (self._top + self._bottom) / 2
      out.append(f'<g transform="rotate(-90 {x} {y:.1f})">{_text(x, y, ylabel, "middle")}</g>')
    return "".join(out)

  def _named(self, label, color, style, line):
    if label:
      self._legend.append((label, color, style, line))
    return self

  def _drawn_legend(self):
    """(elements, pixels that it needs beyond its one row)."""
    out, x, y = [], self._left, 29
    for label, color, style, line in self._legend:
      width = _text_width(label) + 34
      if x + width > self._width + 10 and x > self._left:
        x, y = self._left, y + 13
      out.append(_segment(x, y - 4, x + 22, y - 4, color, 2.2, style) if line else
                 mark(x + 11, y - 4, color, style, 3.5))
      out.append(_text(x + 26, y, label))
      x += width
    return "".join(out), y - 29

  def _at(self, x, y):
    return f"{self.px(x):.1f} {self.py(self._inside(y)):.1f}"

  def _inside(self, y):
    return min(max(y, self._y[0]), self._y[1])


def forest(rows, title, xlabel="", zero=None, width=720, describe="", form=".3f", names=None,
           include=()):
  """Values with intervals, a line each: the figure that most tables want beside them. A line's
  label stands at its left, or above it where a label would take much of the width.

  Args:
    rows: list of (label, marks, text). marks: list of (value, lo, hi, color, shape), drawn side by
      side; None is left out. text: what stands at the right; None: value [lo, hi] of the first
      mark.
    title, describe, xlabel: as Plot.
    zero: where a vertical line is drawn, or None.
    names: (label, color, shape) of the legend.
    include: values that the axis must reach.
  Returns:
    an <svg> element.
  """
  flat = [v for _, marks, _ in rows for m in marks for v in m[:3]]
  lo, hi = limits(flat, 0.04, [*include, *finite(zero)])
  texts = [_interval(marks, form) if text is None else text for _, marks, text in rows]
  beside = max((_text_width(label) for label, *_ in rows), default=0) + 14
  above = beside > 0.3 * width
  labels = [_lines(label, width) if above else [label] for label, *_ in rows]
  left = 8 if above else beside
  right = width - max((_text_width(text) for text in texts), default=0) - 12
  out, top = _head(title, width, names)
  px = lambda x: left + (x - lo) / (hi - lo) * (right - left)
  steps = [20 + 14 * len(lines) if above else 23 for lines in labels]
  bottom = top + sum(steps) + 4
  for value in ticks(lo, hi, max(2, min(7, int((right - left) / 42)))):
    out += [_segment(px(value), top, px(value), bottom, _RULE, 1),
            _text(px(value), bottom + 14, number(value), "middle")]
  if zero is not None:
    out.append(_segment(px(zero), top, px(zero), bottom, GREY, 1.2))
  for i, ((_, marks, _), lines, text) in enumerate(zip(rows, labels, texts)):
    y = top + sum(steps[:i + 1]) - 11.5
    out += ([_text(0, y + 1 - 14 * (len(lines) - k), line, halo=True)
             for k, line in enumerate(lines)] if above
            else [_text(left - 10, y + 4, lines[0], "end")])
    out.append(_text(right + 8, y + 4, text))
    ranged = [m for m in marks if finite(*m[1:3])[1:]]   # side by side; what has no interval, on it
    for mark_ in marks:
      value, low, high, color, shape = mark_
      at = y + ((ranged.index(mark_) - (len(ranged) - 1) / 2) * 6 if mark_ in ranged else 0)
      if finite(low, high)[1:]:
        out.append(_segment(px(low), at, px(high), at, color, 1.8))
      if finite(value):
        out.append(mark(px(value), at, color, shape, 3.8))
  if xlabel:
    out.append(_text((left + right) / 2, bottom + 30, xlabel, "middle"))
  return _root(width, bottom + (36 if xlabel else 20), title, describe, "".join(out))


def waterfall(start, steps, end, title, width=640, form="+.3f"):
  """How a sum comes about: a bar per step from where the last one ended.

  Args:
    start: (label, value) of the first line.
    steps: list of (label, change).
    end: label of the last line, whose value is the sum.
    title, width, form: as forest.
  Returns:
    an <svg> element.
  """
  edges = [start[1]]
  for _, change in steps:
    edges.append(edges[-1] + change)
  lo, hi = limits(edges, 0.08)
  labels = [start[0], *(label for label, _ in steps), end]
  left = min(max(_text_width(label) for label in labels) + 14, 0.42 * width)
  heading, down = _title(0, title, width)
  right, step, top = width - 62, 24, 28 + down
  bottom = top + step * len(labels) + 4
  px = lambda x: left + (x - lo) / (hi - lo) * (right - left)
  out = [heading]
  for value in ticks(lo, hi, 7):
    out += [_segment(px(value), top, px(value), bottom, _RULE, 1),
            _text(px(value), bottom + 14, number(value), "middle")]
  for i, label in enumerate(labels):
    y = top + step * (i + 0.5)
    out.append(_text(left - 10, y + 4, _cut(label, left - 14), "end"))
    if i in (0, len(labels) - 1):
      value = edges[0] if i == 0 else edges[-1]
      out += [mark(px(value), y, BLACK), _text(right + 8, y + 4, f"{value:.3f}")]
      continue
    a, b = edges[i - 1], edges[i]
    out.append(f'<rect x="{min(px(a), px(b)):.1f}" y="{y - 7:.1f}" '
               f'width="{max(abs(px(b) - px(a)), 0.8):.1f}" height="14" rx="1.5" '
               f'fill="{ORANGE if b > a else BLUE}"/>')
    out.append(_segment(px(b), y, px(b), y + step, GREY, 1, "2 2"))
    out.append(_text(right + 8, y + 4, f"{b - a:{form}}".replace("-", "\N{MINUS SIGN}")))
  return _root(width, bottom + 20, title, "", "".join(out))


def standalone(svg):
  """An <svg> element as the text of a file of its own, on white."""
  head = '<svg xmlns="http://www.w3.org/2000/svg" style="background:#fff;'
  return svg.replace('<svg style="', head, 1) + "\n"


def mark(x, y, color, shape="dot", radius=3.5):
  """A mark at a pixel: a "dot", a hollow "ring" or a hollow "diamond"."""
  if shape == "diamond":
    r = radius + 1.5
    return (f'<path d="M{x:.1f} {y - r:.1f}l{r:g} {r:g}l-{r:g} {r:g}l-{r:g} -{r:g}Z" fill="none" '
            f'stroke="{color}" stroke-width="1.5"/>')
  fill = f'fill="{color}"' if shape == "dot" else f'fill="#fff" stroke="{color}" stroke-width="1.8"'
  return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius:g}" {fill}/>'


def _root(width, height, title, describe, body):
  label = html.escape(f"{title}. {describe}" if describe else title)
  return (f'<svg style="min-width:{width * _LEAST / _SIZE:.0f}px" '
          f'viewBox="0 0 {width:g} {height:g}" width="{width:g}" height="{height:g}" '
          f'role="img" aria-label="{label}" font-family="system-ui, -apple-system, Segoe UI, '
          f'Helvetica, Arial, sans-serif" font-size="{_SIZE}"><title>{label}</title>{body}</svg>')


def _head(title, width, names):
  """The title and the legend of `names`, wrapped, as (elements, pixels down to the figure)."""
  heading, down = _title(0, title, width)
  out, x, y = [heading], 0, down + 33
  for label, color, shape in names or ():
    if x and x + 15 + _text_width(label) > width:
      x, y = 0, y + 15
    out += [mark(x + 6, y - 4, color, shape, 3.5), _text(x + 15, y, label)]
    x += _text_width(label) + 30
  return out, y + 9 if names else down + 28


def _title(x, title, width):
  """The title, wrapped, as (elements, pixels that it needs beyond its one line)."""
  lines = _lines(title, width - x, 1.1 * 12.5)   # bold
  return "".join(_text(x, 14 + 15 * i, line, weight=600, size=12.5)
                 for i, line in enumerate(lines)), 15 * (len(lines) - 1)


def _text(x, y, text, anchor="start", weight=400, size=None, halo=False):
  extra = (f' text-anchor="{anchor}"' if anchor != "start" else "") + (
      f' font-weight="{weight}"' if weight != 400 else "") + (
          f' font-size="{size}"' if size else "") + (
              ' stroke="#fff" stroke-width="3" paint-order="stroke"' if halo else "")
  return f'<text x="{x:.1f}" y="{y:.1f}" fill="{_INK}"{extra}>{html.escape(str(text))}</text>'


def _segment(x1, y1, x2, y2, color, width, dash=""):
  extra = f' stroke-dasharray="{dash}"' if dash else ""
  return (f'<path d="M{x1:.1f} {y1:.1f}L{x2:.1f} {y2:.1f}" stroke="{color}" '
          f'stroke-width="{width:g}" fill="none"{extra}/>')


def _interval(marks, form):
  text = tables.interval_text(dict(zip(("value", "lo", "hi"), marks[0])), form)
  return text if text == "-" else text.replace("-", "\N{MINUS SIGN}")


def _lines(text, width, size=_SIZE):
  """`text` in lines no wider than `width`, broken after a blank or a plus sign."""
  lines = [""]
  for word in re.findall(r"[^ +]*[ +]|[^ +]+", str(text)):
    if lines[-1] and _text_width(lines[-1] + word.rstrip(), size) > width:
      lines.append("")
    lines[-1] += word
  return [_cut(line.rstrip(), width, size) for line in lines]


def _cut(text, width, size=_SIZE):
  """`text` without as much of its middle as does not fit: what tells labels apart is at an end."""
  if _text_width(text, size) <= width:
    return text
  keep = len(text)
  while keep > 2 and _text_width(text[:keep // 2] + text[-(keep // 2):], size) > width - size:
    keep -= 1
  return text[:keep // 2] + "\N{HORIZONTAL ELLIPSIS}" + text[-(keep // 2):]


def _text_width(text, size=_SIZE):
  return sum(_WIDTHS.get(c, 0.64) for c in str(text)) * size


def _wide(lo, hi):
  return (lo, hi) if hi > lo else (lo - 0.5, lo + 0.5)
