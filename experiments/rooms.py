"""Which room of crl_jax imports which: python -m experiments.rooms

Prints the rooms floor by floor from the top, each with those that its files import (in functions
too), and the same as a Mermaid graph, which GitHub draws. The ground floor, which all may import,
is not drawn. What is allowed is in tests/test_rooms.py, which reads imports as here.
"""

import ast
import pathlib

ROOT = pathlib.Path(__file__).parents[1]
GROUND = {"commands", "config", "files", "processes", "progress", "stopping"}


def paths(root=ROOT):
  """The files that belong to a room."""
  return sorted([*(root / "crl_jax").rglob("*.py"), *(root / "experiments").rglob("*.py")])


def imports(path):
  """[(line, dotted module, imported name or None)] of a file's imports of the project."""
  nodes = list(ast.walk(ast.parse(path.read_text())))
  found = [(n.lineno, a.name, None) for n in nodes if isinstance(n, ast.Import) for a in n.names]
  found += [(n.lineno, n.module, a.name) for n in nodes
            if isinstance(n, ast.ImportFrom) and not n.level for a in n.names]
  return [(line, module, name) for line, module, name in found
          if module.partition(".")[0] in ("crl_jax", "experiments")]


def room_of(module, name=None):
  """(room, file in it or None) of `from module import name`."""
  top, *parts = module.split(".") + ([name] if name else [])
  room, file, *_ = [*parts, None, None] if top == "crl_jax" else [top, None]
  return room if room and not room.startswith("__") else "__init__", file


def arrows(root=ROOT):
  """room -> the rooms that its files import, above the ground floor."""
  out, found = GROUND | {"__init__"}, {}
  for path in paths(root):
    room, _ = room_of(".".join(path.relative_to(root).with_suffix("").parts))
    others = {room_of(module, name)[0] for _, module, name in imports(path)}
    found[room] = found.get(room, set()) | others - out - {room}
  return {room: others for room, others in found.items() if room not in out}


def floors(imported):
  """[names of a floor] from the ground up: each imports names of lower floors only. `imported`:
  name -> names that it imports. Raises ValueError where imports run in a circle."""
  left, found = {name: others - {name} for name, others in imported.items()}, []
  while left:
    found.append(sorted(name for name, others in left.items() if not others & left.keys()))
    if not found[-1]:
      raise ValueError(f"imports run in a circle among {sorted(left)}")
    left = {name: others for name, others in left.items() if name not in found[-1]}
  return found


def main():
  found = arrows()
  order = [(i, room) for i, floor in enumerate(floors(found), 1) for room in floor][::-1]
  lines = [f"floor {i}: {room} imports {', '.join(sorted(found[room])) or 'no room'}"
           for i, room in order]
  lines += ["", "```mermaid", "graph TD"]
  lines += [f"  {room} --> {' & '.join(sorted(found[room]))}" for _, room in order if found[room]]
  print("\n".join([*lines, "```"]))


if __name__ == "__main__":
  main()
