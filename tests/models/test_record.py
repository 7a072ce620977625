"""The contract of a model: its functions are called as their types say."""

import inspect
import typing

import pytest

from crl_jax import models
from crl_jax.models import record
from tests.small_engine import build, make_data, small, wanted


@pytest.mark.parametrize("name", models.MODELS)
def test_the_functions_of_a_model_have_the_parameters_of_their_types(name):
  model = build(small(name), make_data(wanted(name)))
  types = {field: kind for field, kind in typing.get_type_hints(record.Model).items()
           for kind in (typing.get_args(kind) or (kind,)) if typing.Protocol in kind.__mro__}
  assert set(types) == {"init", "apply", "loss", "probability", "join", "prepare"}
  for field, kind in types.items():
    if getattr(model, field) is None:
      continue
    needed = lambda function: [(p.name, p.default is p.empty)
                               for p in inspect.signature(function).parameters.values()]
    assert needed(getattr(model, field)) == needed(kind.__call__)[1:], field
