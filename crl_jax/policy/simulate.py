"""Writes a simulated PolicyCohort with its truth:
python -m crl_jax.policy.simulate --kind=simsum|mmnar --out=DIR --rows=10000 [--world=A] [--seed=0].

--world: of simsum "", or what is missing not at random, A, B or C; of mmnar the seed of its world.
"""

import pathlib

from absl import flags

from crl_jax import commands


def main(given):
  from crl_jax import config as config_lib   # late, so that --help is quick
  from crl_jax.data.cohort import CohortError
  from crl_jax.policy import cohorts, data
  config = config_lib.default().unlock()
  config.policy.cohort = given.kind
  config.data.simulate.rows, config.seed = given.rows, given.seed
  if given.kind == "simsum":
    config.policy.world = given.world
  else:
    if not (given.world or "0").isdecimal():
      raise CohortError(f"--world={given.world}: the world of mmnar is a number.")
    config.data.simulate.world = int(given.world or 0)
  p = cohorts.build(config_lib.check(config.lock()))
  data.save(p, given.out)
  print(f"{len(p)} rows, {p.treatment.mean():.1%} treated, true average effect "
        f"{p.effect.mean():+.4f} -> {pathlib.Path(given.out)}")


if __name__ == "__main__":
  flags.DEFINE_enum("kind", "simsum", ["simsum", "mmnar"], "Which simulated patients.")
  commands.path_flag("out", "A new folder.", required=True)
  flags.DEFINE_integer("rows", 10000, "Patients.", lower_bound=100)
  flags.DEFINE_string("world", "", "Of simsum '', A, B or C; of mmnar a number.")
  flags.DEFINE_integer("seed", 0, "Of the patients.", lower_bound=0)
  commands.run(main, "crl_jax.policy.simulate")
