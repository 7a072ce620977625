"""What is scored: every predictor on the rows of a role, as metrics.json, tables and figures name
it. A new predictor of the predictions table is one more line of YARDSTICKS."""

import dataclasses
import typing


@dataclasses.dataclass(frozen=True)
class Role:
  """A predictor on held-out rows.

  Attributes:
    key: in metrics.json.
    prefix: of its columns in the predictions table; where they are absent it is not scored.
    label: in tables and figures; "": it is scored and not shown.
    rows: "test" or "val", the role of its rows.
    color: of its marks, a name in report.svg.COLORS.
    dash: of its decision curve; None: none is drawn.
    difference: label of the line that tells how it differs from FINAL; "": there is no such line.
  """
  key: str
  prefix: str
  label: str = ""
  rows: str = "test"
  color: str = "grey"
  dash: str | None = None
  difference: str = ""


class Difference(typing.NamedTuple):
  """First minus second of two roles."""
  first: Role
  second: Role

  @property
  def key(self):
    """In metrics.json."""
    return f"{self.first.key}-{self.second.key}"

  @property
  def label(self):
    if self.first is CHOSEN and self.second is not FINAL:
      return ""
    if self.second is CHOSEN:
      return f"headline's {self.first.difference}"
    return (self.first if self.second is FINAL else self.second).difference


FINAL = Role("test", "p_", "with rectifier", color="orange", dash="")
BASE = Role("test_base", "p_base_", "base model", color="blue", dash="5 4",
            difference="rectifier's gain")
CHOSEN = Role("test_chosen", "p_chosen_", "headline", color="green", dash="2 2",
              difference="headline's gain")
STACK = Role("test_stack", "p_stack_", "stack")
CALIBRATED = Role("test_calibrated", "p_calibrated_", "calibrated")
POOL = Role("test_pool", "p_pool_")   # the stack before its calibration
YARDSTICKS = (
    Role("test_logistic", "p_logistic_", "logistic reg.", color="green"),
    Role("test_onehot", "p_onehot_", "logistic, one-hot", color="sky"),
    Role("test_boosting", "p_boosting_", "boosting", color="purple", dash="9 3 2 3",
         difference="over boosting"),
    Role("test_forest", "p_forest_", "random forest"),
    Role("test_lightgbm", "p_lightgbm_", "LightGBM"),
    Role("test_xgboost", "p_xgboost_", "XGBoost"),
    Role("test_catboost", "p_catboost_", "CatBoost"))
BAYES = Role("test_bayes", "p_bayes_", "Bayes-optimal", color="black", difference="regret")
ROLES = (CHOSEN, FINAL, BASE, CALIBRATED, STACK, *YARDSTICKS, BAYES, POOL,
         Role("val", "p_", rows="val"), Role("val_base", "p_base_", rows="val"))

GAIN, REGRET = Difference(FINAL, BASE), Difference(BAYES, FINAL)
DIFFERENCES = (GAIN, *(Difference(FINAL, role) for role in YARDSTICKS), REGRET,
               Difference(CHOSEN, FINAL), *(Difference(CHOSEN, role) for role in YARDSTICKS),
               Difference(BAYES, CHOSEN))


def lead(metrics):
  """The role that a report of a metrics.json leads with."""
  return CHOSEN if CHOSEN.key in metrics else FINAL


def shown(metrics):
  """The roles of a metrics.json that tables and figures show, the headline first, the base model
  before what was made of it."""
  found = [role for role in ROLES if role.label and role.key in metrics]
  return sorted(found, key=lambda role: (role is not CHOSEN, role is not BASE))
