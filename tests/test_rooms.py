"""Which room imports which: the table of the architecture, held over the syntax tree."""

import ast
import pkgutil
import re
import subprocess
import sys

import pytest

from experiments import rooms
from experiments.rooms import GROUND, ROOT, imports, paths, room_of

BELOW = {"backbones", "data", "models", "engine", "posthoc", "statistics", "pipeline"}
COMMAND = {"run", "serve", "report", "benchmark", "policy", "statistics"}
# room -> the rooms that it may import, besides itself and the ground floor
MAY = {**dict.fromkeys(GROUND | {"backbones", "__init__"}, set()), "config": {"models"},
       "data": {"backbones", "__init__"}, "models": {"data", "backbones"}, "statistics": {"data"},
       "posthoc": {"statistics", "data"}, "engine": {"models", "data"},
       "serve": {"engine", "models", "posthoc", "statistics", "data", "__init__"},
       "report": {"statistics"}, "pipeline": {"data", "engine", "posthoc", "statistics"},
       "run": {"pipeline", "serve", "report", "engine"}, "benchmark": BELOW,
       "policy": BELOW | {"report"},   # whose studies have a page of their own
       **dict.fromkeys(("main", "predict", "explain", "export", "rectify"), COMMAND),
       "experiments": BELOW | COMMAND}
# where a whole room is too much: (who, whom) -> the files of it that may be imported
ONLY = {("models", "data"): {"cohort"}, ("statistics", "data"): {"cohort"},
        ("posthoc", "data"): {"cohort"}}


def wrong(root=ROOT):
  """Sentences on the imports that the table does not allow, and private names of another room."""
  found = []
  for path in paths(root):
    room, _ = room_of(".".join(path.relative_to(root).with_suffix("").parts))
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
  assert [(path.name, use) for path in paths() for use in private_uses(path)] == []


def test_the_rooms_have_an_order():
  """No circle: every room can be put above those that it may import."""
  assert len(rooms.floors(MAY)) > 5
  with pytest.raises(ValueError, match="circle among .*'engine'.*'serve'"):
    rooms.floors(rooms.arrows() | {"engine": {"serve"}})


def test_the_picture_in_the_experiments_page_is_that_of_the_imports(capsys):
  """Rooms on the floors above all that they import; the page shows what the command prints."""
  rooms.main()
  text, graph = capsys.readouterr().out.split("\n\n")
  floor = {room: int(i) for i, room in re.findall(r"^floor (\d+): (\w+) imports", text, re.M)}
  drawn = {(room, other) for room, others in re.findall(r"(\w+) --> (.+)", graph)
           for other in others.split(" & ")}
  assert drawn == {(room, other) for room, others in rooms.arrows().items() for other in others}
  assert {("run", "pipeline"), ("engine", "models"), ("data", "backbones")} <= drawn
  assert all(floor[room] > floor[other] for room, other in drawn)
  assert graph in (ROOT / "experiments/README.md").read_text()


def test_the_public_names_of_the_readme_are_there():
  said = re.search(r"\*\*Public\*\*: (.+?)\n\n", (ROOT / "README.md").read_text(), re.DOTALL)[1]
  found = [pkgutil.resolve_name(f"{module}.{name}")
           for module, names in re.findall(r"`(crl_jax[\w.]*)\.([^`]+)`", said)
           for name in re.findall(r"\w+", names)]
  assert len(found) > 12


def test_a_room_gives_its_public_names_and_what_works_on_tables_loads_no_jax():
  """In one process, the quick rooms first."""
  public = {"statistics": ("metrics", "scoring", "bootstrap", "compare", "fairness", "conformal"),
            "report": (), "posthoc": ("rectifier", "rectify"), "models": ("MODELS", "build"),
            "serve": ("load",)}
  program = "import sys\n" + "".join(
      f"from crl_jax.{room} import *\nassert set({names}) <= globals().keys()\n"
      + "assert not {'jax', 'pandas'} & sys.modules.keys()\n" * (room in ("statistics", "report"))
      for room, names in public.items())
  subprocess.run([sys.executable, "-W", "error", "-c", program], cwd=ROOT, check=True)


@pytest.mark.parametrize("room", ["posthoc", "statistics", "report", "files", "config"])
def test_what_works_on_tables_loads_neither_jax_nor_a_model(room):
  loaded = {name for path in (ROOT / "crl_jax").rglob("*.py")
            if path.relative_to(ROOT / "crl_jax").with_suffix("").parts[0] == room
            for node in ast.walk(ast.parse(path.read_text()))
            for name in ([a.name for a in node.names] if isinstance(node, ast.Import) else
                         [node.module or ""] if isinstance(node, ast.ImportFrom) else [])}
  assert loaded and not {name for name in loaded if name.split(".")[0] in ("jax", "flax", "optax")
                         or name.startswith(("crl_jax.models", "crl_jax.engine"))}


def test_a_config_of_any_model_is_read_without_jax():
  program = ("import sys\nfrom crl_jax import config, models\n"
             "for name in models.MODELS: config.check(config.default(name))\n"
             "assert not {'jax', 'flax', 'pandas'} & sys.modules.keys()")
  subprocess.run([sys.executable, "-W", "error", "-c", program], cwd=ROOT, check=True)


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
