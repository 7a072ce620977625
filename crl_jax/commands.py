"""What all commands share: flags, one line for a mistake in them, one line and a status for errors.

A command's file defines its flags only where it is run, so that it can be imported beside others:

  if __name__ == "__main__":
    commands.path_flag("workdir", "A finished run folder.", required=True)
    commands.run(main, "crl_jax.export")
"""

import contextlib
import os
import pathlib
import re
import sys

from absl import app, flags, logging

from crl_jax import config as config_lib, files, stopping

_NONE = "No config is named: --config=configs/mimic.py, or another file of configs/."

flags.disclaim_key_flags()   # --help shows a path_flag as one of the command's


class _Path(flags.ArgumentParser):
  syntactic_help = "a path ('~' or '~user' at its start: a home folder)"

  def parse(self, argument):
    return files.expanded(argument)


def path(text):
  """The pathlib.Path of an argument; see files.expanded()."""
  return pathlib.Path(files.expanded(text))


def path_flag(name, help, default=None, required=False):
  """Defines a flag that holds a path, as text; see files.expanded()."""
  flags.DEFINE(_Path(), name, default, help, required=required)


@contextlib.contextmanager
def ending(module):
  """Around what `python -m module` does: an error that a user can mend ends the program with one
  message and status 1, a signal as stopping.cleanly() does. Yields the Stop."""
  with stopping.cleanly(module) as stop:
    try:
      yield stop
    except (ValueError, OSError, RuntimeError, FloatingPointError) as error:
      sys.exit(f"\nError: {error}")


def run(main, module, positional=(), parse=None):
  """Parses the flags, runs `main` and ends the program.

  Args:
    main: (flags.FLAGS, *positional arguments) -> exit status, None for 0.
    module: as in `python -m module`.
    positional: names of the arguments that are no flags; each is needed.
    parse: (argv) -> what is left of it; by default parse_flags.
  """
  def begin(argv):
    for value in argv[1 + len(positional):]:
      refuse(f"Unknown argument '{value}'.")
    for name in positional[len(argv) - 1:]:
      refuse(f"{name} is missing: python -m {module} {' '.join(positional)}")
    logging.set_verbosity(logging.WARNING)   # orbax tells of every file that it reads or renames
    _silence_threads()
    with ending(module):
      return main(flags.FLAGS, *argv[1:])
  app.run(begin, flags_parser=parse or parse_flags)


def parse_flags(argv):
  """What is left of `argv` without its flags; a mistake in them is refused."""
  try:
    return flags.FLAGS(argv)
  except flags.UnrecognizedFlagError as error:
    near = str(error).partition("Did you mean: ")[2].removesuffix(" ?").replace(", ", " or --")
    refuse(f"Unknown flag --{error.flagname}." + f" Did you mean --{near}?" * bool(near))
  except flags.IllegalFlagValueError as error:
    if absent := re.findall(r"Flag (--\S+) must have a value other than None", str(error)):
      refuse(f"{' and '.join(absent)} must be given: see --help.")
    given = str(error).removeprefix("flag ").removesuffix(f": {error.__context__}")
    name = given.partition("=")[0].removeprefix("--")
    if kind := _kind(flags.FLAGS[name].parser):
      refuse(f"{given}: it must be {kind}.")
    while error.__context__:   # of --config: what its file raised
      error = error.__context__
    refuse(error)
  except (flags.Error, ValueError) as error:   # the latter: --noflag=value
    refuse(error)
  except SystemExit:   # --help, to which absl gives status 1
    sys.exit(0)


def _silence_threads():
  """Leaves out the tracebacks of orbax's threads: what they met is raised to who waits for them and
  told there, once."""
  logging.get_absl_handler().addFilter(
      lambda record: not (record.exc_info and "orbax" in pathlib.Path(record.pathname).parts))
  hook = sys.unraisablehook   # to which tensorstore hands what its callbacks meet after an error
  sys.unraisablehook = lambda what: (
      None if str(what.exc_value) == "Event loop is closed" else hook(what))


def parse_config(argv):
  """What is left of `argv` without the flags of a command that has --config.

  A config that cannot be read, a setting that is unknown or of another type end the program with
  one line and status 2.
  """
  found = [re.match(r"--?(?:no)?config(?:$|=|\.([^=\[]*))", argument) for argument in argv[1:]]
  keys = [match[1] for match in found if match and match[1] is not None]
  for key in config_lib.unknown(keys):
    near = config_lib.suggestion(key, config_lib.default())
    refuse(f"Unknown setting --config.{key}. " + (
        f"Did you mean --config.{near}?" if near else "crl_jax/config.py lists them all."))
  if keys and all(match is None or match[1] is not None for match in found):
    refuse(_NONE)
  try:
    rest = parse_flags([
        re.sub("^(--?config=)(~.*)", lambda m: m[1] + os.path.expanduser(m[2]), argument)
        for argument in argv])
    if flags.FLAGS.config is None:
      refuse(_NONE)
    # a file that could not be read is told of where it is first looked at
    flags.FLAGS.config.is_locked
  except SyntaxError as error:
    refuse(f"The file that --config names is no Python: {error}.")
  except OSError as error:
    why = str(error.__cause__ or error).strip().splitlines()[-1].strip()
    refuse(f"The file that --config names cannot be read: {why.rstrip('.')}. Name "
           "one of configs/.")
  except AttributeError as error:
    if "get_config" not in str(error):
      raise
    refuse("The file that --config names defines no get_config(): name one of configs/.")
  except KeyError as error:   # a task under loss.tasks that this config does not name
    refuse(f"The config has no {error.args[0]}.")
  except IndexError:
    refuse("A setting has fewer elements than "
           f"{next(argument for argument in argv if '[' in argument)} needs.")
  if rest[1:]:
    refuse(f"Unknown argument '{rest[1]}'; settings are written --config.key=value.")
  return rest


def _kind(parser):
  """What a flag's value may be, in words."""
  if isinstance(parser, flags.EnumParser):
    return " or ".join(map(repr, parser.enum_values))
  return {"bool": "a boolean: true or false", "tuple": "a tuple, like \"('a', 'b')\""}.get(
      parser.flag_type()) or parser.syntactic_help


def refuse(message):
  """Ends the program because of what was typed: one line and status 2."""
  print(f"Error: {message}", file=sys.stderr)
  sys.exit(2)
