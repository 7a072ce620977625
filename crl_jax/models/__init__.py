"""The models by name. A new model is one file here, or part of its family's, and one line in
MODELS; settings of its own are a function in settings.py.

A config is read without JAX, and so is this: a builder's file is imported when it is asked for.
"""

import dataclasses
import importlib
from typing import Callable

from crl_jax.models import settings

__all__ = ["MODELS", "Entry", "Spec", "build", "entry", "zoo"]


@dataclasses.dataclass(frozen=True)
class Entry:
  """What there is to know of a model before it is built.

  Attributes:
    source: the paper and its year.
    missing: what the model does with a modality that is missing.
    builder: "file.function" of this folder, or a function: (config, spec) -> record.Model.
    settings: () -> config.model.<name>.
    inputs: the kinds of input that it wants.
  """
  source: str
  missing: str
  builder: str | Callable
  settings: Callable = settings.none
  inputs: str = "any"


MODELS = {
    "crl_mmnar": Entry("CRL-MMNAR, Liang 2025", "its absence is an input: gates and a token",
                       "crl_mmnar.build", settings.crl_mmnar),
    "zero_fill": Entry("comparator", "zeros, and the pattern as an input", "filled.build_zero"),
    "mean_fill": Entry("comparator", "the mean", "filled.build_mean"),
    "lstm": Entry("LSTM of CareBench, Hochreiter 1997", "a learned vector; others are not read",
                  "unimodal.build_lstm", settings.lstm, inputs="series"),
    "transformer": Entry("Transformer of CareBench, Vaswani 2017", "a learned vector; others are "
                         "not read", "unimodal.build_transformer", settings.transformer,
                         inputs="series"),
    "resnet50": Entry("ResNet-50, He 2016", "such rows count in nothing; others are not read",
                      "unimodal.build_resnet50", settings.resnet50,
                      inputs="image, or else a set or vector"),
    "late_fusion": Entry("LateFusion of CareBench, 2025", "zeros, or a learned vector",
                         "concat.build_late", settings.late_fusion),
    "early": Entry("Early of MedFuse, Hayat 2022", "a learned vector", "concat.build_early",
                   settings.early),
    "joint": Entry("Joint of MedFuse, Hayat 2022", "a learned vector", "concat.build_joint"),
    "unified": Entry("Unified, Hayat 2021 (our reading)", "a head for each pattern",
                     "concat.build_unified", settings.unified),
    "medfuse_ri": Entry("MedFuse-RI, Hayat 2022", "no step of the sequence", "medfuse.build_ri",
                        settings.medfuse_ri),
    "medfuse_pt": Entry("MedFuse-PT, Hayat 2022", "no step of the sequence", "medfuse.build_pt",
                        settings.medfuse_pt),
    "medfuse": Entry("MedFuse-OPTIMAL, Hayat 2022", "no step of the sequence, and such rows are "
                     "sampled", "medfuse.build", settings.medfuse),
    "mmtm": Entry("MMTM, Vaezi Joze 2020, of tokens", "neither squeezed nor excited",
                  "recalibrate.build_mmtm", settings.mmtm),
    "daft": Entry("DAFT, Poelsterl 2021, of tokens", "no part in the affine map",
                  "recalibrate.build_daft", settings.daft),
    "mt": Entry("Multimodal transformer, Ma 2022 (our reading)", "not attended to",
                "attention.build_mt", settings.mt),
    "drfuse": Entry("DrFuse, Yao 2024", "not attended to, no part in the union",
                    "disentangle.build_drfuse", settings.drfuse),
    "shaspec": Entry("ShaSpec, Wang 2023", "the mean of what the others share",
                     "disentangle.build_shaspec", settings.shaspec),
    "cm_ae": Entry("Bimodal autoencoder, Ngiam 2011 (our reading)", "zeros, of a code that gives "
                   "it back", "impute.build_cm_ae", settings.cm_ae),
    "missmodal": Entry("MissModal, Lin 2023 (our reading)", "not attended to; parts of rows are "
                       "drawn to the whole", "impute.build_missmodal", settings.missmodal),
    "grape": Entry("GRAPE, You 2020, of tokens", "no edge; filled from the graph", "grape.build",
                   settings.grape),
    "m3care": Entry("M3Care, Zhang 2022", "what similar patients have", "m3care.build",
                    settings.m3care),
    "gru_d": Entry("GRU-D, Che 2016", "zeros, and the pattern as an input",
                   "irregular.build_gru_d", settings.gru_d, inputs="series, and any beside it"),
    "raindrop": Entry("Raindrop, Zhang 2022 (our reading)", "zeros, and the pattern as an input",
                      "irregular.build_raindrop", settings.raindrop,
                      inputs="series, and any beside it"),
    "aug": Entry("AUG, Jiang 2025", "no part in the mean", "balance.build_aug", settings.aug),
    "inforeg": Entry("InfoReg, Huang 2025", "no part in the sum", "balance.build_inforeg",
                     settings.inforeg),
}


def __getattr__(name):
  if name == "Spec":   # with it comes JAX
    from crl_jax.models.record import Spec
    return Spec
  raise AttributeError(f"module 'crl_jax.models' has no attribute '{name}'")


def zoo():
  """A line for every model: name, paper and year, inputs, what it does with a missing modality."""
  width = max(map(len, MODELS))
  return [f"{name:{width}}  {about.source}; inputs: {about.inputs}; missing: {about.missing}"
          for name, about in MODELS.items()]


def entry(name):
  """The Entry of a model. Raises ValueError that lists the zoo for an unknown name."""
  if name not in MODELS:
    raise ValueError(f"Unknown config.model.name '{name}'; there are:\n  " + "\n  ".join(zoo()))
  return MODELS[name]


def build(config, spec):
  """The record.Model of config.model.name for `spec` (record.Spec). Raises as entry()."""
  builder = entry(config.model.name).builder
  if isinstance(builder, str):
    file, function = builder.split(".")
    builder = getattr(importlib.import_module(f"crl_jax.models.{file}"), function)
  return builder(config, spec)
