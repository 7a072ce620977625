"""TensorFlow Datasets builders of the cohorts, for those who live in TFDS; they need no TensorFlow.

    import tensorflow_datasets as tfds
    from crl_jax.data import tfds_builders          # registers crl_eicu and crl_mimic
    builder = tfds.builder("crl_eicu")              # the eICU demo, fetched from PhysioNet
    builder.download_and_prepare()
    rows = builder.as_data_source(split="train")    # NumPy, random access

crl_eicu downloads the public eICU-CRD demo 2.0.1 and checks it against PhysioNet's checksums.
crl_mimic reads what you downloaded (`manual_dir`), since MIMIC-IV needs an account. Splits are
those of member 0 of a run: train, validation, test, by patient. An example holds one row of the
`Cohort` (data/cohort.py): inputs by modality (zeros where unobserved, NaN a missing feature),
observed, labels (NaN undefined), row_id, patient_id, pattern and the groups; the names of features,
modalities and tasks are in builder.info.metadata. Settings of your own:

    tfds.builder("crl_mimic", config=CohortConfig(name="mine", overrides=("text.model=DIR",)))

TFDS finds prepared rows by the builder's and the config's name alone. So what they were made of is
kept with them, and rows of other settings, other code or other files are refused, never served.
"""

import dataclasses
import json
import pathlib
import tempfile

import numpy as np
import tensorflow_datasets as tfds

from crl_jax import config as config_lib, files
from crl_jax.data import cohort as cohort_lib, eicu, mimic, prepared, splits
from crl_jax.data.eicu import features as eicu_features
from crl_jax.data.mimic import files as mimic_files, stays as mimic_stays

_SPLITS = {"train": "train", "validation": "val", "test": "test"}
_DEMO = "https://physionet.org/files/eicu-crd-demo/2.0.1"


@dataclasses.dataclass(kw_only=True)
class CohortConfig(tfds.core.BuilderConfig):
  """A builder's settings: "key=value" strings over crl_jax.config.default()."""
  overrides: tuple = ()


_CONFIGS = [
    CohortConfig(name="honest", description="rows hold what was recorded before their time",
                 overrides=("data.protocol=honest",)),
    CohortConfig(name="paper", description="one row a patient, with all information to discharge",
                 overrides=("data.protocol=paper",))]


class _CohortBuilder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
  """A cohort as a dataset; subclasses say where its files are (`_root`), which cohort
  it is (`_build`), and modality -> (rank of a row's input, dtype) (`_ranks`)."""
  VERSION = tfds.core.Version("1.0.0")
  BUILDER_CONFIGS = _CONFIGS
  COHORT, RECIPE, TASKS, GROUPS = None, None, (), ()

  def __init__(self, **kwargs):
    kwargs.setdefault("file_format", "array_record")   # any other would need TensorFlow
    super().__init__(**kwargs)
    if self.data_path.exists():
      self._check("settings or code", "recipe", self._recipe())

  def download_and_prepare(self, *, download_dir=None, download_config=None, **kwargs):
    """As the base class. Raises CohortError where the rows prepared before were read from other
    files than manual_dir has now."""
    self._check_files(download_dir, download_config)
    super().download_and_prepare(download_dir=download_dir, download_config=download_config,
                                 **kwargs)

  def _check(self, what, name, value):
    """Raises CohortError where the prepared rows were made of another `name` than `value`."""
    made_of = self.info.metadata.get("made_of", {})   # {}: of a version that did not keep it
    if made_of.get(name) != value:
      raise cohort_lib.CohortError(
          f"The rows in {self.data_path} were made of other {what} than this builder's. Give "
          "the CohortConfig another name, or another data_dir, or delete that folder.")

  def _check_files(self, download_dir, download_config):
    """Of downloads: nothing, their content is fixed."""

  def _recipe(self):
    config = self._settings()
    return [prepared.recipe_digest(config, self.RECIPE), config.seed, config.splits.folds,
            config.splits.validation]

  def _settings(self, root=""):
    pairs = (*self.builder_config.overrides, f"data.cohort={self.COHORT}", f"data.root={root}")
    return config_lib.override(config_lib.default(), pairs)

  def _info(self):
    f = tfds.features
    ranks = self._ranks()
    return tfds.core.DatasetInfo(
        builder=self, description=self.__doc__, disable_shuffling=True,
        metadata=tfds.core.MetadataDict(),
        features=f.FeaturesDict({
            # widths are the cohort's, known when it is read
            "inputs": {m: f.Tensor(shape=(None,) * rank, dtype=kind)
                       for m, (rank, kind) in ranks.items()},
            "observed": f.Tensor(shape=(len(ranks),), dtype=np.bool_),
            "labels": f.Tensor(shape=(len(self.TASKS),), dtype=np.float32),
            "row_id": f.Scalar(np.int64), "patient_id": f.Scalar(np.int64),
            "pattern": f.Scalar(np.int64),
            "groups": {name: f.Text() for name in self.GROUPS}}))

  def _split_generators(self, dl_manager):
    with tempfile.TemporaryDirectory() as folder:
      config = self._settings(self._root(dl_manager, pathlib.Path(folder)))
      cohort = cohort_lib.validate(self._build(config))
      read = prepared.files_digest(config, self.RECIPE)
    parts = splits.of_config(config, cohort)
    self.info.metadata.update(
        made_of={"recipe": self._recipe(), "files": read},
        modalities=list(cohort.modalities), tasks=list(cohort.tasks),
        features={m: list(names) for m, names in cohort.features.items()},
        kinds=cohort.kinds, cohort=json.loads(json.dumps(cohort.info)))
    return {name: self._generate_examples(cohort, parts.rows(0, role))
            for name, role in _SPLITS.items()}

  def _generate_examples(self, cohort, rows):
    pattern = cohort.pattern
    for key, i in enumerate(rows):
      yield key, {
          "inputs": {m: np.asarray(cohort.inputs[m][i]) for m in cohort.modalities},
          "observed": cohort.observed[i], "labels": cohort.labels[i],
          "row_id": int(cohort.row_id[i]), "patient_id": int(cohort.patient_id[i]),
          "pattern": int(pattern[i]),
          "groups": {name: str(cohort.groups[name][i]) for name in self.GROUPS}}


class CrlEicu(_CohortBuilder):
  """The cohort of the eICU Collaborative Research Database Demo 2.0.1: unit stays, ten virtual
  modalities, readmission to the unit and in-hospital mortality. Open Database License."""
  COHORT, RECIPE, TASKS = "eicu", eicu.RECIPE, eicu.TASKS
  GROUPS = ("sex", "age_band", "ethnicity", "hospital", "region", "unit", "time")
  URL = _DEMO
  # PhysioNet's SHA256SUMS.txt of the tables that the cohort reads
  SHA256 = {
      "admissionDx": "607020180f1c7fbbc994a23552d6a4fdc70b86d4abc8e1b36f3ee28e96f15c42",
      "admissiondrug": "fcf0af0de0efe18ec932199d2fcb308143886df6d50daea869bea48464ea6d68",
      "apacheApsVar": "2dc6d63f9807c7e663ffa253998691605d527b702ac1db8cc5dda92308061e78",
      "apachePredVar": "99d5a4ab2c5cd07b6ee0a540c86a576e5975ed3b93df8525e3d287d5babf3eae",
      "carePlanEOL": "dfb5eafc8cb6d0c96f6ac289dd49998939df353d919ca0451d74542fd13a2f7f",
      "carePlanGeneral": "f095258743a05717dda031b9a4f00061cffe82e06ae793c0e51f2890e1dcd44e",
      "diagnosis": "c99770c25fdeaee1eb34e490f982bd17459bc8902f951a2ae23adef65e7b1b52",
      "hospital": "4ed356f9c4e7c8ce80e89241697e94b77f21c2f325cd6ad126794b1e92805ef4",
      "infusiondrug": "3b9f024d28682884a820763ac516ae68b247ebf17903fee4f38240c04886d527",
      "intakeOutput": "45db8ee0e64a4e3745284bde5828f740175770c45d00ea0c27daff789d18106e",
      "lab": "e06852850abeb65211bc22ac43f17121ba41b14656fac862396449af84d8273a",
      "medication": "480a251570a27932110452f66f248061f712c306663c274f78f90875648cb720",
      "pastHistory": "3af6e3101c037347365d81daf73ea487ba12e14a6a10f0b2ed53beed2e30c7d5",
      "patient": "15e1eb52169828e3cfff3b67132a087298de4d0365bbb31bb294f6043bffd474",
      "physicalExam": "7c11cae91ce2828964b9212bb49e601a0e48911ef7df5480b547621845c9d73f",
      "respiratoryCare": "9e260512866498995b49d0f0676795b62115fc1045de3f7daf2e356769259de7",
      "respiratoryCharting": "21bfe647fea0a229d09ff04c775ec4270d20ae084131a987943da836df534235",
      "treatment": "daefee030fa1ad29593dce880ad86bdfbdbb1e33fcb3e78fa21d71cb01a08628",
      "vitalAperiodic": "c294f46647990cb648b3ebfa589e83f330bdc0c2c922b5e8f23aa0ef99954635",
      "vitalPeriodic": "04dc093a2e77cd4c52ac7f2a47a8356fbb7456c7f15deb20d5abb1ca4303231d",
  }

  def _ranks(self):
    return {m: (1, np.float32) for m in eicu_features.MODALITIES}

  def _root(self, dl_manager, folder):
    """The folder of the downloaded files under their own names; raises CohortError where one is not
    the published file."""
    paths = dl_manager.download({t: f"{self.URL}/{t}.csv.gz" for t in self.SHA256})
    for table, path in paths.items():
      if files.sha256(path) != self.SHA256[table]:
        raise cohort_lib.CohortError(
            f"{table}.csv.gz is not the file that PhysioNet published: its checksum differs. "
            f"Delete {path} and download it again.")
      (folder / f"{table}.csv.gz").symlink_to(pathlib.Path(path).absolute())
    return folder

  def _build(self, config):
    return eicu.build(config)


class CrlMimic(_CohortBuilder):
  """The four-modality cohort of MIMIC-IV: readmission, ICU admission, in-hospital mortality."""
  MANUAL_DOWNLOAD_INSTRUCTIONS = (
      "MIMIC-IV needs a PhysioNet account with signed agreements. Put the files into manual_dir, "
      "for example by running there:\n  "
      + "\n  ".join(mimic_files.command(source, "/MANUAL_DIR") for source in mimic_files.PROJECTS)
      + "\nand check them with: python -m crl_jax.data.mimic.verify --root=MANUAL_DIR\nNotes need "
      "a BERT: config=CohortConfig(name='mine', overrides=('text.model=DIR',)).")
  COHORT, RECIPE, TASKS = "mimic", mimic.RECIPE, mimic_stays.TASKS
  GROUPS = ("sex", "age_band", "ethnicity", "insurance", "unit", "time")

  def _ranks(self):
    c = self._settings()
    words = (2, np.int32) if c.text.finetune else (1, np.float32)
    ranks = dict(structured=(1, np.float32), discharge=words, radiology=words,
                 image=(1 if c.data.mimic.image_pooling == "mean" else 2, np.float32))
    return {m: ranks[m] for m in mimic.MODALITIES if m in c.data.mimic.modalities}

  def _root(self, dl_manager, folder):
    del folder
    return dl_manager.manual_dir

  def _check_files(self, download_dir, download_config):
    place = download_config.manual_dir if download_config else None
    if place is None:   # where TFDS looks if nobody says
      place = pathlib.Path(download_dir or self.data_path.parents[2] / "downloads") / "manual"
    if self.data_path.exists() and pathlib.Path(place).is_dir():
      read = prepared.files_digest(self._settings(place), self.RECIPE)
      self._check("files", "files", read)

  def _build(self, config):
    return mimic.build(config)
