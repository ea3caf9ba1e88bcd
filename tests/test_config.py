"""Config files: arguments, types, nearest names, diffs."""

import json
import pathlib

import ml_collections
import pytest

from rlreward import config as config_lib
from rlreward.errors import UserError

SOURCE = '''"""A config for tests."""
from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder
from rlreward.types import Arm

def get_config(arg="mini"):
  c = ConfigDict()
  c.lr = 1e-3  # peak learning rate
  c.steps = 10 if arg == "mini" else 1000
  c.name = "toy"
  c.shuffle = True
  c.betas = (0.9, 0.95)
  c.seed = placeholder(int)
  c.note = None
  c.model = ConfigDict({
      "width": 8,  # D
      "tied": False,
  })
  return c

ARMS = [Arm("ours", {}), Arm("plain", {"model.width": 4})]
def claim(r): return r["ours"] > r["plain"]
'''


@pytest.fixture
def path(tmp_path: pathlib.Path) -> str:
  file = tmp_path / "configs" / "toy.py"
  file.parent.mkdir()
  file.write_text(SOURCE)
  return str(file)


def test_parse_arg_keeps_commas_in_brackets():
  assert config_lib.parse_arg("mini,lr=1e-3") == ("mini", {"lr": "1e-3"})
  assert config_lib.parse_arg("b=(1,2),pod,fast") == (
    "pod,fast",
    {"b": "(1,2)"},
  )
  assert config_lib.parse_arg("") == ("", {})
  with pytest.raises(UserError, match="no field name"):
    config_lib.parse_arg("=3")


@pytest.mark.parametrize(
  ("text", "field", "value"),
  [
    ("lr=1", "lr", 1.0),
    ("steps=1e3", "steps", 1000),
    ("steps=1_000", "steps", 1000),
    ("name=7", "name", "7"),
    ("shuffle=no", "shuffle", False),
    ("betas=(0.8,0.9)", "betas", (0.8, 0.9)),
    ("betas=[1]", "betas", (1,)),
    ("seed=3", "seed", 3),
    ("seed=None", "seed", None),
    ("note=hello", "note", "hello"),
    ("note=1e-3", "note", 1e-3),
    ("model.width=16", "model.width", 16),
    ("model.tied=True", "model.tied", True),
  ],
)
def test_text_takes_the_type_of_the_default(path, text, field, value):
  got = dict(config_lib.flatten(config_lib.load(f"{path}:mini,{text}")))
  want = list(value) if isinstance(value, tuple) else value
  assert got[field] == want and type(got[field]) is type(want)


@pytest.mark.parametrize(
  ("text", "words"),
  [
    ("steps=1.5", "steps=1.5 is not of type int"),
    ("steps=many", "not of type int"),
    ("steps=True", "not of type int"),
    ("lr=fast", "not of type float"),
    ("lr=True", "not of type float"),
    ("shuffle=2", "not of type bool"),
    ("betas=0.9", "not of type tuple"),
    ("seed=x", "not of type int"),
    ("model=3", "not of type ConfigDict"),
    ("learning_rat=1", "no field 'learning_rat'"),
    ("model.widht=1", "did you mean 'model.width'"),
    ("widht=1", "did you mean 'model.width'"),
    ("mode.width=1", "did you mean 'model.width'"),
    ("lr.x=1", "no field 'lr.x'"),
    ("step=1", "did you mean 'steps'"),
  ],
)
def test_bad_fields_are_three_lines(path, text, words):
  with pytest.raises(UserError) as error:
    config_lib.load(f"{path}:{text}")
  assert words in str(error.value)
  assert len(str(error.value).splitlines()) == 3


def test_presets_overrides_and_frozen(path):
  assert config_lib.load(path).steps == 10
  assert config_lib.load(f"{path}:pod").steps == 1000
  flags = ["--config.steps=5", "model.width=3"]
  config = config_lib.load(f"{path}:pod,steps=7", flags)
  assert (config.steps, config.model.width) == (5, 3)
  config = config_lib.load(path, {"steps": 6, "model": {"tied": True}})
  assert (config.steps, config.model.tied, config.model.width) == (6, True, 8)
  assert isinstance(hash(config), int)
  with pytest.raises(AttributeError):
    config.steps = 1
  with pytest.raises(UserError, match="gives no value"):
    config_lib.load(path, ["--config.steps"])


def test_study_and_replace(path):
  study = config_lib.study(f"{path}:pod")
  assert study.name == "toy" and study.doc == "A config for tests."
  assert [arm.name for arm in study.arms] == ["ours", "plain"]
  assert study.claim is not None and study.claim({"ours": 2, "plain": 1})
  base = config_lib.load(path)
  arm = config_lib.replace(base, study.arms[1].overrides)
  assert (arm.model.width, base.model.width) == (4, 8)
  assert config_lib.diff(base, arm) == ["model.width: 8 -> 4"]


def test_names_and_missing_files(path, monkeypatch):
  folder = pathlib.Path(path).parent
  monkeypatch.chdir(folder.parent)
  for name in ("toy", "configs/toy", "configs.toy", "configs/toy.py", "toy.py"):
    assert config_lib.find(name) == pathlib.Path(path)
  with pytest.raises(UserError, match="did you mean 'toy'"):
    config_lib.find("tooy")
  (folder / "common.py").write_text("WIDTH = 5\n")
  (folder / "uses.py").write_text(
    "from configs import common\n"
    "def get_config(arg=''): return {'width': common.WIDTH, 'arg': arg}\n"
  )
  config = config_lib.load("uses:big")
  assert (config.width, config.arg) == (5, "big")
  # Another folder of the same name has its own neighbours.
  other = folder.parent / "other" / "configs"
  other.mkdir(parents=True)
  (other / "common.py").write_text("WIDTH = 6\n")
  (other / "uses.py").write_text((folder / "uses.py").read_text())
  assert config_lib.load(str(other / "uses.py")).width == 6
  assert config_lib.load("uses").width == 5
  (folder / "empty.py").write_text("")
  with pytest.raises(UserError, match="no get_config"):
    config_lib.load("empty")


def test_json_is_deterministic_and_complete(path):
  config = config_lib.load(path)
  text = config_lib.to_json(config)
  again = config_lib.to_json(ml_collections.ConfigDict(json.loads(text)))
  assert text == again and list(json.loads(text)) == sorted(json.loads(text))
  assert config_lib.diff(text, config) == []
  with pytest.raises(UserError, match="JSON"):
    config_lib.to_json({"f": len})


def test_workdir_of_another_config_shows_the_diff(path, tmp_path):
  run = tmp_path / "run"
  config_lib.check_workdir(run, config_lib.load(f"{path}:lr=9"))
  config_lib.check_workdir(run, config_lib.load(path))  # nothing ran yet
  (run / "metrics.jsonl").touch()
  config_lib.check_workdir(run, config_lib.load(path))
  changed = config_lib.load(f"{path}:lr=0.5,steps=20")
  with pytest.raises(UserError, match=r"lr: 0\.001 -> 0\.5; steps: 10 -> 20"):
    config_lib.check_workdir(run, changed)
  config_lib.check_workdir(run, changed, may_change=("lr", "steps"))
  assert json.loads((run / "config.json").read_text())["steps"] == 20


def test_describe_repeats_the_comments(path):
  lines = config_lib.describe(config_lib.load(path), path).splitlines()
  assert "lr = 0.001  # peak learning rate" in lines
  assert "model.width = 8  # D" in lines
  assert "steps = 10" in lines
