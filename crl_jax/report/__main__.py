"""Makes report.html and model_card.md of a finished run again, with whatever its folder holds by
now: python -m crl_jax.report RUN"""

import pathlib
import sys

from crl_jax.report import page


def main():
  if len(sys.argv) != 2 or sys.argv[1].startswith("-"):
    sys.exit("Usage: python -m crl_jax.report RUN")
  try:
    page.rebuild(sys.argv[1])
  except (OSError, ValueError) as error:
    sys.exit(f"\nError: {error}")
  print(pathlib.Path(sys.argv[1]) / "report.html")


if __name__ == "__main__":
  main()
