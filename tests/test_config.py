"""The tree: what it refuses, how it is compared, stored, read back and overridden."""

import json
import re

import pytest

from configs import (cohort, eicu, mimic, policy_cohort, policy_mmnar, policy_semisynthetic,
                     policy_simsum)
from crl_jax import config as config_lib, models


def changed(**settings):
  c = config_lib.paper_tasks(config_lib.default()).unlock()
  c.update_from_flattened_dict({key.replace("__", "."): value for key, value in settings.items()})
  return c.lock()


@pytest.mark.parametrize("get_config", [config_lib.default, mimic.get_config, eicu.get_config,
                                        cohort.get_config, policy_cohort.get_config,
                                        policy_mmnar.get_config, policy_semisynthetic.get_config,
                                        policy_simsum.get_config])
def test_every_config_is_locked_passes_its_check_and_survives_json(get_config):
  config = get_config()
  assert config.is_locked and config_lib.check(config) is config
  again = config_lib.from_dict(json.loads(json.dumps(config_lib.as_dict(config))))
  assert again.to_dict() == config.to_dict() and again.is_locked


def test_every_key_of_the_default_tree_has_a_comment():
  source = open(config_lib.__file__).read().split("def default")[1].split("return c.lock()")[0]
  # What these hold is said once, at the head of the group.
  documented = ("c.train.joint.", "c.train.pretrain.", "c.loss.tasks.")
  bare = [line for line in source.splitlines()
          if re.match(r"  c\.[a-z_.]+ = ", line) and "#" not in line
          and "= _D()" not in line and not line.strip().startswith(documented)]
  assert not bare


def test_every_setting_of_a_model_has_a_comment():
  """And no name that all models share."""
  source = open(models.settings.__file__).read()
  bare = [line for line in source.splitlines() if re.match(r"  c\.[a-z_.]+ = ", line)
          and "#" not in line and "= _D()" not in line]
  assert "  c.hide = " in source and not bare
  for name, about in models.MODELS.items():
    assert not set(about.settings()) & (set(config_lib.default().model) - {"crl_mmnar"}), name


@pytest.mark.parametrize("settings, message", [
    (dict(parallel="both"), "parallel"),
    (dict(platform="cuda"), "platform"),
    (dict(data__protocol="both"), "data.protocol"),
    (dict(preprocess__scale="log"), "preprocess.scale"),
    (dict(model__crl_mmnar__hide="none"), "model.crl_mmnar.hide"),
    (dict(train__monitor="auprc"), "train.monitor"),
    (dict(rectifier__scale="odds"), "rectifier.scale"),
    (dict(model__width=100), "model.width 100 is not a multiple of model.heads 8"),
    (dict(splits__folds=1), "splits.folds"),
    (dict(members__folds=6), "members.folds is 6; it may be 1 to splits.folds (5)"),
    (dict(members__folds=0), "members.folds"),
    (dict(members__seeds=0), "members.seeds"),
    (dict(splits__validation=1.0), "splits.validation"),
    (dict(splits__validation=0.0), "splits.validation"),
    (dict(rectifier__folds=1), "rectifier.folds"),
    (dict(evaluate__bootstrap=0), "evaluate.bootstrap"),
    (dict(evaluate__bins=0), "evaluate.bins"),
    (dict(train__batch_size=0), "train.batch_size"),
    (dict(model__dropout=1.0), "model.dropout"),
    (dict(model__input_dropout=-0.1), "model.input_dropout"),
    (dict(train__ema=1.0), "train.ema"),
    (dict(train__non_finite_steps=0), "train.non_finite_steps"),
    (dict(checkpoint__every_epochs=0), "checkpoint.every_epochs"),
    (dict(checkpoint__keep=0), "checkpoint.keep"),
    (dict(model__pooling="max"), "model.pooling"),
    (dict(text__pooling="max"), "text.pooling"),
    (dict(text__precision="float16"), "text.precision"),
    (dict(text__window=4), "text.window"),
    (dict(text__overlap=400), "text.overlap"),
    (dict(text__max_windows=0), "text.max_windows"),
    (dict(seed=-1), "seed is -1; from 0 to 2147483647"),
    (dict(data__simulate__world=2**31), "data.simulate.world is 2147483648; from 0"),
    (dict(model__width=0), "model.width is 0; at least 1"),
    (dict(model__heads=0), "model.heads is 0; at least 1"),
    (dict(model__layers=0), "model.layers is 0; at least 1"),
    (dict(model__crl_mmnar__temperature=0.0), "model.crl_mmnar.temperature is 0.0; more than 0"),
    (dict(train__clip_norm=0.0), "train.clip_norm is 0.0; more than 0"),
    (dict(train__weight_decay=-0.1), "train.weight_decay"),
    (dict(train__joint__learning_rate=-1.0), "train.joint.learning_rate is -1.0; at least 0"),
    (dict(train__pretrain__learning_rate=-1.0), "train.pretrain.learning_rate"),
    (dict(preprocess__quantiles=1), "preprocess.quantiles is 1; at least 2"),
    (dict(preprocess__components=-1), "preprocess.components"),
    (dict(preprocess__clip=0.0), "preprocess.clip"),
    (dict(policy__cohort="mimic"), "policy.cohort is 'mimic'; it may be 'simsum'"),
    (dict(policy__nuisances="lasso"), "policy.nuisances"),
    (dict(policy__budgets=(0.2, 1.0)), "policy.budgets is (0.2, 1.0)"),
    (dict(policy__budgets=()), "policy.budgets is ()"),
    (dict(policy__gammas=(0.5,)), "policy.gammas is (0.5,)"),
    (dict(policy__clip=0.0), "policy.clip is 0.0"),
    (dict(policy__trim=0.5), "policy.trim 0.5"),
    (dict(policy__train_share=1.0), "policy.train_share is 1.0"),
    (dict(policy__folds=1, policy__nuisances="linear"), "policy.folds 1 is the paper's way"),
    (dict(policy__net__epochs=0), "policy.net.epochs is 0; at least 1"),
    (dict(rectifier__thresholds=()), "rectifier.thresholds is ()"),
    (dict(rectifier__thresholds=("0",)), "rectifier.thresholds is ('0',); a tuple of float"),
    (dict(loss__deeper=(1,)), "loss.deeper is (1,); a tuple of str, as ('mortality',)"),
    (dict(rectifier__thresholds=(0.0, -1.0)), "rectifier.thresholds"),
    (dict(text__learning_rate=-1.0), "text.learning_rate"),
    (dict(loss__tasks__icu__alpha=1.0), "loss.tasks.icu"),
    (dict(loss__tasks__icu__gamma=-1.0), "loss.tasks.icu"),
    (dict(train__joint__epochs=-1), "epochs"),
    (dict(train__joint__epochs=0, train__pretrain__epochs=0), "both phases have 0 epochs"),
])
def test_what_cannot_work_is_refused_by_its_key(settings, message):
  with pytest.raises(ValueError, match=re.escape(message)) as error:
    config_lib.check(changed(**settings))
  assert str(error.value).startswith("config.")


def test_a_name_that_a_config_file_misspells_is_refused():
  c = config_lib.default().unlock()
  c.train.btach_size = 8
  with pytest.raises(ValueError, match="config.train.btach_size is no .* mean 'train.batch_size'"):
    config_lib.check(c.lock())


def test_difference_names_each_key_and_both_values():
  old, new = (config_lib.as_dict(changed()),
              config_lib.as_dict(changed(train__batch_size=64, model__crl_mmnar__hide="one")))
  assert config_lib.difference(old, old) == []
  assert config_lib.difference(old, new) == ["model.crl_mmnar.hide: 'all' -> 'one'",
                                             "train.batch_size: 32 -> 64"]
  assert config_lib.difference({"a": {"b": None}}, {"a": {}}) == ["a.b: None -> 'absent'"]
  assert config_lib.difference({"a": 1}, {"a": 1, "c": {"d": 2}}) == ["c.d: 'absent' -> 2"]


@pytest.mark.parametrize("config_file, weights, gamma, deeper", [
    (None, [1.0, 1.0, 1.0], 0.0, ()), (mimic, [1.2, 1.0, 1.5], 0.5, ("mortality",)),
    (eicu, [1.2, 1.0, 1.5], 0.5, ("mortality",)), (cohort, [1.2, 1.0, 1.5], 0.5, ("mortality",))])
def test_the_configs_name_the_papers_tasks_and_the_default_none(config_file, weights, gamma,
                                                                deeper):
  c = config_file.get_config() if config_file else config_lib.default()
  assert config_lib.task_losses(c, ("readmission", "icu", "mortality")) == (
      [0.5] * 3, [gamma] * 3, weights)
  assert c.loss.deeper == deeper and c.is_locked


def test_from_dict_keeps_a_configs_own_tasks():
  c = config_lib.paper_tasks(config_lib.default()).unlock()
  c.loss.tasks.sepsis = dict(weight=2.0, alpha=0.3, gamma=1.0)
  again = config_lib.from_dict(config_lib.as_dict(c.lock()))
  assert again.loss.tasks.sepsis.alpha == 0.3
  assert config_lib.task_losses(again, ("sepsis", "other", "mortality")) == (
      [0.3, 0.5, 0.5], [1.0, 0.0, 0.5], [2.0, 1.0, 1.5])


def test_from_dict_refuses_another_version_naming_its_keys():
  tree = config_lib.as_dict(config_lib.default())
  del tree["train"]["ema"]
  tree["model"]["depth"] = 3
  with pytest.raises(ValueError,
                     match=r"unknown keys \['model.depth'\], absent keys \['train.ema'\]"):
    config_lib.from_dict(tree)
  del tree["model"]["depth"]
  with pytest.raises(ValueError, match=r"unknown keys \[\], absent keys \['train.ema'\]"):
    config_lib.from_dict(tree)


def flat(config):
  """The config.json of version 0.2.0: CRL-MMNAR's settings flat, whatever the model is."""
  tree = config_lib.as_dict(config)
  own = tree["model"].pop(config.model.name) or config_lib.default().model.crl_mmnar.to_dict()
  own.pop("pattern_term")   # came later
  return tree | {"model": tree["model"] | own}


@pytest.mark.parametrize("name", ["crl_mmnar", "zero_fill"])
def test_the_flat_settings_of_a_model_up_to_0_2_0_are_read(name):
  new = mimic.get_config(name)
  old = flat(new)
  assert old["model"]["stop_gradient"] is True
  assert config_lib.from_dict(old) == new and config_lib.current(old) == config_lib.as_dict(new)
  assert config_lib.current(config_lib.as_dict(new)) == config_lib.as_dict(new)
  # what was trained of CRL-MMNAR is what is trained; of others CRL-MMNAR's settings were said, too
  same = config_lib.digest(old) == config_lib.digest(config_lib.as_dict(new))
  assert same == (name == "crl_mmnar")
  with pytest.raises(ValueError, match="unknown keys .'model.depth'"):
    config_lib.from_dict(old | {"model": old["model"] | {"depth": 3}})


def test_a_run_from_before_the_headline_is_read_and_gone_on_with():
  new = config_lib.as_dict(mimic.get_config())
  old = {key: value for key, value in new.items() if key != "headline"}
  old["evaluate"] = {key: value for key, value in new["evaluate"].items() if key != "by_class"}
  old["model"] = old["model"] | {"crl_mmnar": {
      key: value for key, value in new["model"]["crl_mmnar"].items() if key != "pattern_term"}}
  assert config_lib.current(old) == new and config_lib.from_dict(old) == mimic.get_config()
  assert config_lib.digest(old) == config_lib.digest(new)   # nothing of it is trained
  off = config_lib.as_dict(config_lib.override(mimic.get_config(), ["headline.stack=False"]))
  assert config_lib.digest(off) == config_lib.digest(new)
  assert config_lib.difference(config_lib.current(old), off, config_lib.FREE) == [
      "headline.stack: True -> False"]


def test_a_config_holds_the_settings_of_one_model():
  for get_config in (config_lib.default, mimic.get_config, eicu.get_config, cohort.get_config):
    for name in models.MODELS:
      config = config_lib.check(get_config(name))
      assert config.model.name == name and set(config.model) & set(models.MODELS) == {name}
    assert get_config("") == get_config() and get_config().model.name == "crl_mmnar"
  assert mimic.get_config().model.crl_mmnar.hide == "one"
  other = config_lib.override(mimic.get_config(), ["train.ema=0.5", "model.name=mean_fill"])
  assert other == config_lib.override(mimic.get_config("mean_fill"), ["train.ema=0.5"])
  wrong = other.copy_and_resolve_references().unlock()
  wrong.model.name = "crl_mmnar"
  with pytest.raises(ValueError, match="choose it with --config=FILE:crl_mmnar"):
    config_lib.check(wrong)


def test_an_unknown_model_is_answered_with_those_there_are():
  for call in (lambda: config_lib.default("nobody"), lambda: mimic.get_config("nobody"),
               lambda: config_lib.override(config_lib.default(), ["model.name=nobody"])):
    with pytest.raises(ValueError, match="model.name 'nobody'; there are:") as error:
      call()
    lines = str(error.value).splitlines()[1:]
    assert [line.split()[0] for line in lines] == list(models.MODELS) == [
        line.split()[0] for line in models.zoo()]


def test_override_reads_values_by_the_type_of_the_key():
  config = config_lib.override(config_lib.default(), [
      "train.batch_size=64", "model.dropout=0", "data.root=123", "data.cohort=eicu",
      "evaluate.yardsticks=False", "loss.deeper=('icu',)", "data.encoding=a=b"])
  assert (config.train.batch_size, config.model.dropout, config.data.root) == (64, 0.0, "123")
  assert (isinstance(config.model.dropout, float) and config.data.cohort == "eicu"
          and config.data.encoding == "a=b")
  assert config.evaluate.yardsticks is False and config.loss.deeper == ("icu",) and config.is_locked
  assert config_lib.default().train.batch_size == 32


@pytest.mark.parametrize("pair, message", [
    ("train.batchsize=3", "Did you mean 'train.batch_size'"),
    ("train=3", "Unknown setting 'train'"),
    ("train.batch_size=large", "'train.batch_size' is 'large'; it must be of type int, as 32"),
    ("train.batch_size=3.5", "type int"),
    ("model.dropout=low", "type float"),
    ("evaluate.yardsticks=perhaps", "type bool"),
])
def test_override_refuses_unknown_keys_and_wrong_types(pair, message):
  with pytest.raises(ValueError, match=re.escape(message)):
    config_lib.override(config_lib.default(), [pair])


def test_home_folders_in_paths(monkeypatch, tmp_path):
  monkeypatch.setenv("HOME", str(tmp_path))
  c = config_lib.override(config_lib.default(), [f"{key}=~/a" for key in config_lib.PATHS])
  assert c.is_locked and config_lib.difference(
      config_lib.as_dict(config_lib.default()), config_lib.as_dict(c)) == [
          f"{key}: {old!r} -> '{tmp_path}/a'" for key, old in (
              ("data.cache", "auto"), ("data.root", ""), ("data.spill", ""), ("text.cache", ""),
              ("text.model", ""))]
  assert config_lib.expanded(c) == c and config_lib.expanded(mimic.get_config()) == (
      mimic.get_config())
  with pytest.raises(ValueError, match="config.text.model is ~nobody-at-all/a: the home folder"):
    config_lib.override(c, ["text.model=~nobody-at-all/a"])


def test_every_setting_that_is_a_folder_is_among_the_paths():
  found = re.findall(r"  c\.([\w.]+) = .*# folder ", open(config_lib.__file__).read())
  assert set(found) == set(config_lib.PATHS)


def test_unknown_keys_and_what_was_meant():
  keys = ["seed", "train.joint.epochs", "trian.ema", "loss.tasks.sepsis.weight",
          "loss.tasks.sepsis.wait", "train"]
  assert config_lib.unknown(keys) == ["trian.ema", "loss.tasks.sepsis.wait", "train"]
  assert config_lib.suggestion("model.hide", config_lib.default("zero_fill")) == (
      "model.crl_mmnar.hide")
  assert config_lib.unknown(["model.crl_mmnar.hide", "model.zero_fill.hide"]) == [
      "model.zero_fill.hide"]
  assert config_lib.suggestion("trian.ema", config_lib.default()) == "train.ema"
  assert config_lib.suggestion("xyzzy", config_lib.default()) == ""


def test_settings_of_policies_are_no_runs():
  """A run made before there were any is read, goes on and lies where it lay."""
  from crl_jax import run
  old = config_lib.as_dict(config_lib.default())
  del old["policy"]
  assert config_lib.from_dict(old).to_dict() == config_lib.default().to_dict()
  new = changed(policy__clip=0.05, policy__hide=("note",))
  base = config_lib.paper_tasks(config_lib.default())
  digest = lambda c: config_lib.digest(config_lib.as_dict(c))
  assert digest(new) == digest(base) == digest(config_lib.paper_tasks(config_lib.default()))
  assert run.default_workdir(new, "x") == run.default_workdir(base, "x")
  assert config_lib.difference(old, config_lib.as_dict(config_lib.default()), config_lib.FREE) == []


def test_settings_of_kinds_that_came_later_change_no_older_run():
  """A run made before there were any is read, goes on and lies where it lay."""
  from crl_jax import run
  default = config_lib.default()
  old = config_lib.as_dict(default)
  del old["encoders"], old["vision"], old["preprocess"]["series_fill"], old["preprocess"]["before"]
  for key in ("kinds", "steps", "cells"):
    del old["data"]["simulate"][key]
  assert config_lib.from_dict(old) == default
  digest = lambda c: config_lib.digest(config_lib.as_dict(c))
  assert config_lib.digest(old) == digest(default)
  assert config_lib.difference(old, config_lib.as_dict(default)) != []
  assert config_lib.difference(config_lib.current(old), config_lib.as_dict(default)) == []
  for change in (dict(encoders__series="lstm"), dict(vision__flip=True),
                 dict(preprocess__series_fill="none")):
    new, usual = changed(**change), changed()
    assert digest(new) != digest(usual)
    assert run.default_workdir(new, "x") != run.default_workdir(usual, "x")


@pytest.mark.parametrize("settings, message", [
    (dict(encoders__series="rnn"), "encoders.series is 'rnn'; it may be 'gru' or 'lstm'"),
    (dict(encoders__image="vit"), "encoders.image"),
    (dict(vision__scale=(1.2, 0.8)), "vision.scale is (1.2, 0.8); two numbers"),
    (dict(vision__sd=(1.0, 0.0, 1.0)), "three numbers each, sd more than 0"),
    (dict(preprocess__before="zero"), "preprocess.before")])
def test_settings_of_series_and_images_that_cannot_work(settings, message):
  with pytest.raises(ValueError, match=re.escape(message)):
    config_lib.check(changed(**settings))
