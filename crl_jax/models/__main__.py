"""Prints the models there are: python -m crl_jax.models

Name, paper and year, the kinds of input that it wants, what it does with a missing modality. Choose
one behind the config's file: --config=configs/mimic.py:NAME.
"""

from crl_jax import commands, models


def main(given):
  del given
  print("\n".join(models.zoo()))


if __name__ == "__main__":
  commands.run(main, "crl_jax.models")
