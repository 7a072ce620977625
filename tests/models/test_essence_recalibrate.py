"""What makes MMTM and DAFT the methods that they are."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.small_engine import ask, batch_of, built, gradient, make_data, seen


@pytest.fixture(scope="module")
def data():
  return make_data()


@pytest.fixture(scope="module")
def mmtm(data):
  model, params, _ = built("mmtm", data)
  named = jax.jit(lambda params, batch: model.apply(params, batch, False, None).named)
  return model, params, batch_of(data, np.arange(8)), named


def test_what_one_modality_holds_gates_the_others(mmtm):
  _, params, batch, named = mmtm
  other = batch.replace(inputs=batch.inputs | {"b": batch.inputs["b"] + 1.0})
  gate = lambda batch: np.asarray(named(params, batch)["gates"])
  whole, moved = gate(seen(batch, 1, 1, 1)), gate(seen(other, 1, 1, 1))
  assert (whole > 0).all() and (whole < 1).all() and np.abs(whole - moved)[:, 0].max() > 1e-3
  found = named(params, seen(batch, 1, 1, 1))
  shut = named(params, seen(batch, 1, 0, 1))
  assert (shut["gated"][:, 1] == 0).all() and not np.allclose(found["gates"], shut["gates"])


def test_gates_act_on_the_joint_answer_and_on_what_is_there_alone(mmtm):
  model, params, batch, _ = mmtm
  found = gradient(model, terms=("prediction",))(params, seen(batch, 1, 0, 1))
  moves = [bool(np.abs(found[f"gate_{m}"]["kernel"]).max() > 0) for m in "abc"]
  assert moves == [True, False, True]


def test_each_modality_has_a_turn_before_all(data, mmtm):
  turns = mmtm[0].stages[0].turns
  assert [named for named, _ in turns] == [("only_a",), ("only_b",), ("only_c",), ("prediction",)]
  first = {path[0] for path in turns[0][1]}
  assert first == {"encode_a", "only_a", "squeeze", "gate_a", "gate_b", "gate_c"}
  assert {path[0] for path in turns[-1][1]} == set(mmtm[1]) - {"only_a", "only_b", "only_c"}
  assert built("mmtm", data, turns=False)[0].stages[0].turns == ()


@pytest.fixture(scope="module")
def daft(data):
  model, params, _ = built("daft", data)
  found = jax.jit(lambda params, batch: model.apply(params, batch, False, None))
  return model, params, batch_of(data, np.arange(8)), found


def test_the_others_scale_and_shift_the_base(daft):
  model, params, batch, found = daft
  alone = found(params, seen(batch, 1, 0, 0)).representation
  both = found(params, seen(batch, 1, 1, 0))
  np.testing.assert_allclose(both.representation,
                             both.named["scale"] * alone + both.named["shift"], atol=1e-5)
  without = params | {"affine": jax.tree.map(jnp.zeros_like, params["affine"])}
  assert (found(without, seen(batch, 1, 1, 0)).representation == 0).all()   # no 1 + scale
  assert np.ptp(ask(model, without, seen(batch, 1, 1, 0)), 0).max() == 0


def test_a_base_without_others_is_as_it_is(daft):
  _, params, batch, found = daft
  other = params | {"squeeze": jax.tree.map(lambda x: x + 1, params["squeeze"])}
  alone = found(params, seen(batch, 1, 0, 0))
  np.testing.assert_array_equal(alone.logits, found(other, seen(batch, 1, 0, 0)).logits)
  assert np.abs(alone.representation).max() > 0.1


def test_the_base_is_chosen(data, daft):
  _, params, batch, _ = daft
  other = built("daft", data, base="b")[0]
  alone = lambda params, *pattern: np.asarray(
      other.apply(params, seen(batch, *pattern), False, None).representation)
  moved = params | {"squeeze": jax.tree.map(lambda x: x + 1, params["squeeze"])}
  np.testing.assert_array_equal(alone(params, 0, 1, 0), alone(moved, 0, 1, 0))   # b has no others
  assert np.abs(alone(params, 1, 0, 0) - alone(moved, 1, 0, 0)).max() > 1e-3     # a is another
  with pytest.raises(ValueError, match="base is 'x'; it may be a, b, c"):
    built("daft", data, base="x")
