"""What makes the models of one modality the methods that they are."""

import dataclasses

import jax
import numpy as np
import pytest

from crl_jax import config as config_lib, models
from crl_jax.backbones import resnet
from crl_jax.models.record import Outputs
from tests.small_engine import TASKS, batch_of, built, make_data, seen, small


def asked(name, data, **own):
  """(model, its parameters, (params, batch) -> logits) of a small model."""
  model, params, _ = built(name, data, **own)
  ask = jax.jit(lambda params, batch: model.apply(params, batch, False, None).logits)
  return model, params, ask


@pytest.fixture(scope="module", params=["lstm", "transformer"])
def one(request):
  """asked() of a model of series, and rows of which two steps exist."""
  data = make_data(("series",))
  batch = seen(batch_of(data, np.arange(8)), 1, 1, 1)
  x = np.random.default_rng(2).normal(size=batch.inputs["a"].shape).astype(np.float32)
  x[..., 0] = np.arange(4) < 2
  return *asked(request.param, data), replaced(batch, x)


def replaced(batch, x):
  return batch.replace(inputs=batch.inputs | {"a": x})


def test_a_row_with_padding_is_the_row_cut_to_its_length(one):
  """And in training, with the same noise, what the padding holds changes nothing."""
  model, params, ask, batch = one
  x = batch.inputs["a"]
  np.testing.assert_allclose(ask(params, replaced(batch, x[:, :2])), ask(params, batch), atol=1e-5)
  other = x.copy()
  other[:, 2:, 1:] = 1e3
  train = jax.jit(lambda batch: model.apply(params, batch, True, jax.random.key(1)).logits)
  np.testing.assert_array_equal(train(replaced(batch, other)), train(batch))
  assert np.abs(np.asarray(ask(params, batch) - train(batch))).max() > 1e-3


def test_the_order_of_the_steps_is_seen(one):
  """Times stay where they are."""
  _, params, ask, batch = one
  turned = batch.inputs["a"].copy()
  turned[:, :2, 2:] = turned[:, 1::-1, 2:]
  assert np.abs(np.asarray(ask(params, replaced(batch, turned)) - ask(params, batch))).max() > 1e-3


def test_the_other_modalities_are_not_read(one):
  _, params, ask, batch = one
  without = seen(batch, 1, 0, 0).replace(inputs=batch.inputs | {
      m: np.full_like(batch.inputs[m], np.nan) for m in "bc"})
  np.testing.assert_array_equal(ask(params, without), ask(params, batch))
  assert not {"encode_b", "encode_c"} & set(params)


def test_a_learned_vector_stands_for_an_absent_series(one):
  _, params, ask, batch = one
  moved = params | {"absent": params["absent"] + 1.0}
  np.testing.assert_array_equal(ask(moved, batch), ask(params, batch))
  without = seen(batch, 0, 1, 1)
  assert (np.asarray(ask(moved, without) - ask(params, without)) != 0).all()


def test_an_lstm_reads_from_both_ends():
  """Told backwards, with its halves exchanged, it says the same."""
  data = make_data(("series",))
  _, params, ask = asked("lstm", data, stacked=1)
  batch = seen(batch_of(data, np.arange(8)), 1, 1, 1)
  x = np.random.default_rng(2).normal(size=batch.inputs["a"].shape).astype(np.float32)
  x[..., 0] = 1
  own = dict(params["encode_a"])
  own["forward_0"], own["backward_0"] = own["backward_0"], own["forward_0"]
  own["out"] = own["out"] | {"kernel": np.roll(own["out"]["kernel"], 8, 0)}
  np.testing.assert_allclose(ask(params | {"encode_a": own}, replaced(batch, x[:, ::-1])),
                             ask(params, replaced(batch, x)), atol=1e-5)
  assert set(built("lstm", data, bidirectional=False, project=False)[1]["encode_a"]) == {
      "forward_0", "forward_1", "out"}


@pytest.fixture(scope="module")
def image():
  """asked() of resnet50 with a network of one block, of images of 96 x 96, and eight of them: a
  square of noise in front of a gray ground."""
  with pytest.MonkeyPatch.context() as patch:
    patch.setitem(resnet.DEPTHS, "resnet10", ((1,), False))
    data = make_data(("image",))
    x = np.full((160, 96, 96, 1), 100, np.float32)
    x[:, 44:52, 44:52] += np.random.default_rng(0).integers(-99, 99, (160, 8, 8, 1))
    data["inputs"]["a"] = x
    yield *asked("resnet50", data), seen(batch_of(data, np.arange(8)), 1, 1, 1)


def test_a_network_of_images_does_not_ask_where(image):
  """Shifted by its strides, away from the edges."""
  _, params, ask, batch = image
  x, said = batch.inputs["a"], np.asarray(ask(params, batch))
  np.testing.assert_allclose(ask(params, replaced(batch, np.roll(x, (4, -8), (1, 2)))), said,
                             atol=1e-4)
  assert np.abs(np.asarray(ask(params, replaced(batch, x[:, ::-1]))) - said).max() > 1e-3


def test_rows_without_an_image_count_in_nothing(image):
  model, params, ask, batch = image
  batch = batch.replace(observed=batch.observed & (np.arange(8) < 4)[:, None])
  term, _ = model.loss(Outputs(ask(params, batch), None, {}), batch)["prediction"]
  labels = ~np.isnan(batch.labels)
  np.testing.assert_array_equal(term.count, labels & (np.arange(8) < 4)[:, None])
  assert (np.ptp(np.asarray(ask(params, batch))[4:], 0) == 0).all()


def test_what_is_read_is_chosen(monkeypatch):
  monkeypatch.setitem(resnet.DEPTHS, "resnet10", ((1,), False))
  monkeypatch.setitem(resnet.DEPTHS, "resnet18", ((2,), False))
  shapes = {"labs": (5,), "films": (2, 6), "xray": (8, 8, 1), "waves": (4, 6), "beats": (4, 8)}
  kinds = dict(films="set", xray="image", waves="series", beats="series")
  spec = models.Spec(tuple(shapes), TASKS, shapes, (0,), kinds)
  def read(name, spec=spec, **own):
    config = small(name)
    config.model[name].update(own)
    params = jax.eval_shape(models.build(config, spec).init, jax.random.key(0))
    return {key.removeprefix("encode_"): x for key, x in params.items() if "encode" in key}
  assert set(read("lstm")) == set(read("transformer")) == {"waves"}
  assert set(read("lstm", modality="beats")) == {"beats"}
  assert set(read("resnet50")) == {"xray"} and set(read("resnet50", modality="labs")) == {"labs"}
  without = dataclasses.replace(spec, modalities=("waves", "films", "labs"))
  assert set(read("resnet50", without)) == {"films"}
  deep = read("resnet50", depth=18)["xray"]["resnet"]
  assert "stage_0_1" in deep and "stage_0_1" not in read("resnet50")["xray"]["resnet"]
  assert config_lib.default("resnet50").model.resnet50.depth == 50
  with pytest.raises(ValueError, match="model.lstm.modality is 'labs'; it may be waves, beats, or"):
    read("lstm", modality="labs")
