"""Makes report.html and model_card.md of a finished run again, with whatever its folder holds by
now: python -m crl_jax.report RUN"""

from crl_jax import commands


def main(_, run):
  from crl_jax.report import page   # late, so that --help is quick
  workdir = commands.path(run)
  page.rebuild(workdir)
  print(workdir / "report.html")


if __name__ == "__main__":
  commands.run(main, "crl_jax.report", positional=("RUN",))
