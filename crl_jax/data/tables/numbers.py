"""Numbers that are written as text, by people and machines of several countries."""

# A run of digits, points and commas with its sign, and groups of three after a blank or an
# apostrophe: the first one of a text is its number.
_RUN = r"[+-]?[0-9.,]*[0-9](?:[eE][+-]?[0-9]+|(?:[ '\x{a0}\x{202f}][0-9]{3})+\b)?"
_PLAIN = r"^[+-]?[0-9]*\.?[0-9]+([eE][+-]?[0-9]+)?$"
_GROUPED = r"^[+-]?[1-9][0-9]{0,2}(,[0-9]{3})+(\.[0-9]+)?$"         # 1,200 and 1,234,567.5
# 7,5 and 0,125 and 1200,5 and 1.200,5: not three digits after up to three, which are a group
_DECIMAL = (r"^[+-]?([0-9]+,[0-9]{1,2}|[0-9]+,[0-9]{4,}|0+,[0-9]+|[0-9]{4,},[0-9]+"
            r"|[1-9][0-9]{0,2}(\.[0-9]{3})+,[0-9]+)$")


def first(text):
  """The first number of an Ibis text as float64: '1,200' is 1200, '7,5' is 7.5, '40 %' is 40; NULL
  where there is none, or where it could be two (see unclear)."""
  import ibis
  run = text.re_extract(_RUN, 0)
  return ibis.cases(
      (run.re_search(_PLAIN), run), (run.re_search(_GROUPED), run.replace(",", "")),
      (run.re_search(_DECIMAL), run.replace(".", "").replace(",", ".")), else_=None
  ).try_cast("float64")


def unclear(text):
  """Whether the first number of an Ibis text could be another one, or two ('1 200', '1,20,5')."""
  return text.re_search(r"[0-9]") & first(text).isnull()
