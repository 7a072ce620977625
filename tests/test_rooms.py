"""Which room imports which: the table of the architecture, held over the syntax tree."""

import ast
import pathlib

import pytest

ROOT = pathlib.Path(__file__).parents[1]
GROUND = {"config", "processes", "files", "stopping", "progress"}
BELOW = {"backbones", "data", "models", "engine", "posthoc", "statistics", "pipeline"}
COMMAND = {"run", "serve", "report", "benchmark", "policy", "statistics"}
# room -> the rooms that it may import, besides itself and the ground floor
MAY = {**dict.fromkeys(GROUND | {"backbones", "__init__"}, set()),
       "data": {"backbones", "__init__"}, "models": {"data", "backbones"}, "statistics": {"data"},
       "posthoc": {"statistics", "data"}, "engine": {"models", "data"},
       "serve": {"engine", "models", "posthoc", "statistics", "data", "__init__"},
       "report": {"statistics"}, "pipeline": {"data", "engine", "posthoc", "statistics"},
       "run": {"pipeline", "serve", "report", "engine"}, "benchmark": BELOW, "policy": BELOW,
       **dict.fromkeys(("main", "predict", "explain", "export", "rectify"), COMMAND),
       "experiments": BELOW | COMMAND}
# where a whole room is too much: (who, whom) -> the files of it that may be imported
ONLY = {("models", "data"): {"cohort"}, ("statistics", "data"): {"cohort"},
        ("posthoc", "data"): {"cohort"}}


def imports(path, root=ROOT):
  """[(line, dotted module, imported name or None)] of a file's imports of the project."""
  found = []
  for node in ast.walk(ast.parse(path.read_text())):
    if isinstance(node, ast.Import):
      found += [(node.lineno, alias.name, None) for alias in node.names]
    elif isinstance(node, ast.ImportFrom) and not node.level:
      found += [(node.lineno, node.module, alias.name) for alias in node.names]
  return [(line, module, name) for line, module, name in found
          if module.partition(".")[0] in ("crl_jax", "experiments")]


def room_of(module, name):
  """(room, file in it or None) of `from module import name`."""
  top, *parts = module.split(".") + ([name] if name else [])
  if top == "experiments":
    return "experiments", None
  if parts and parts[0].startswith("__"):   # crl_jax/__init__.py itself
    return "__init__", None
  return parts[0], parts[1] if len(parts) > 1 else None


def wrong(root=ROOT):
  """Sentences on the imports that the table does not allow, and private names of another room."""
  found = []
  for path in sorted([*(root / "crl_jax").rglob("*.py"), *(root / "experiments").rglob("*.py")]):
    parts = path.relative_to(root).with_suffix("").parts
    room = "experiments" if parts[0] == "experiments" else parts[1]
    for line, module, name in imports(path):
      other, file = room_of(module, name)
      where = f"{path.relative_to(root)}:{line} imports {module} {name or ''}"
      if other == room:
        continue
      if other not in GROUND | MAY[room]:
        found.append(f"{where}: '{room}' may import {sorted(MAY[room])} and the ground floor")
      elif file and file not in ONLY.get((room, other), {file}):
        found.append(f"{where}: of '{other}' only {sorted(ONLY[room, other])}")
      if (name or "").startswith("_") and not name.startswith("__"):
        found.append(f"{where}: a private name of another room")
  return found


def private_uses(path):
  """[(line, text)] of `module._name` on a module imported from another room of the project."""
  room = path.relative_to(ROOT).parts[1 if path.is_relative_to(ROOT / "crl_jax") else 0]
  modules = set()
  tree = ast.parse(path.read_text())
  for node in ast.walk(tree):
    if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("crl_jax"):
      modules |= {alias.asname or alias.name for alias in node.names
                  if room_of(node.module, alias.name)[0] != room}
  return [(node.lineno, f"{node.value.id}.{node.attr}") for node in ast.walk(tree)
          if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)
          and node.value.id in modules and node.attr.startswith("_")
          and not node.attr.startswith("__")]


def test_every_import_is_one_that_the_table_allows():
  assert wrong() == []
  assert {path.stem if path.suffix else path.name for path in (ROOT / "crl_jax").iterdir()
          if path.name != "__pycache__"} <= set(MAY)   # a new room stands in the table


def test_no_private_name_of_another_room_is_used():
  paths = [*(ROOT / "crl_jax").rglob("*.py"), *(ROOT / "experiments").rglob("*.py")]
  assert [(path.name, use) for path in paths for use in private_uses(path)] == []


def test_the_rooms_have_an_order():
  """No circle: every room can be put above those that it may import."""
  left, floors = dict(MAY), []
  while left:
    floor = {room for room, may in left.items() if not may & (left.keys() - {room})}
    assert floor, f"a circle among {sorted(left)}"
    floors.append(floor)
    left = {room: may for room, may in left.items() if room not in floor}
  assert len(floors) > 5


@pytest.mark.parametrize("room", ["statistics", "report", "files", "config"])
def test_what_works_on_tables_loads_neither_jax_nor_a_model(room):
  loaded = {name for path in (ROOT / "crl_jax").rglob("*.py")
            if path.relative_to(ROOT / "crl_jax").with_suffix("").parts[0] == room
            for node in ast.walk(ast.parse(path.read_text()))
            for name in ([a.name for a in node.names] if isinstance(node, ast.Import) else
                         [node.module or ""] if isinstance(node, ast.ImportFrom) else [])}
  assert loaded and not {name for name in loaded if name.split(".")[0] in ("jax", "flax", "optax")
                         or name.startswith(("crl_jax.models", "crl_jax.engine"))}


@pytest.mark.parametrize("file, line, word", [
    ("statistics/compare.py", "from crl_jax.engine import members", "'statistics' may import"),
    ("engine/step.py", "from crl_jax import pipeline", "'engine' may import"),
    ("models/filled.py", "from crl_jax.data import splits", "only ['cohort']"),
    ("serve/explain.py", "from crl_jax import run", "'serve' may import"),
    ("run.py", "from crl_jax.report.page import _brief", "a private name")])
def test_a_wrong_import_is_found(tmp_path, file, line, word):
  path = tmp_path / "crl_jax" / file
  path.parent.mkdir(parents=True)
  path.write_text(line + "\n")
  (found,) = wrong(tmp_path)
  assert word in found and file in found
