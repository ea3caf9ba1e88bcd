"""A reward model in a directory as the reward of an online run."""

import json
import shutil

import jax
import nano
import numpy as np
import pytest

from rlreward import (
  cli,
  config,
  model_rewards,
  registry,
  reward_models,
  scoring,
  train,
)
from rlreward.config import freeze
from rlreward.errors import UserError
from rlreward.models import ensemble_card, pretrained, reward_card
from rlreward.steps import roles
from rlreward.tasks import text, tokens
from rlreward.types import Rollout

DIGITS = tokens.CharTokenizer("0123456789+-*=")
OTHER = tokens.CharTokenizer("=*-+9876543210")  # the policy's own
PAIRS = [
  {"prompt": f"{a}+{b}=", "chosen": str(a + b), "rejected": str(a * 10 + b)}
  for a in range(1, 4)
  for b in range(3)
]
PROMPTS = [{"prompt": p["prompt"], "answer": p["chosen"]} for p in PAIRS]
ANSWERS = ["1", "2", "34", "-5", "9", "", "77", "12"]
RULES = """
def right(completion, answer):
  return float(completion == answer)

def form(completion):
  return {"value": 0.0, "digits": float(completion.isdigit())}

def model(completion):
  return 0.0
"""


def export(folder, seed):
  """A nano reward model of `seed` with its card."""
  source = folder.parent / "pairs.jsonl"
  source.write_text("".join(json.dumps(r) + "\n" for r in PAIRS))
  DIGITS.save(folder.parent)
  c = nano.config(algorithm="reward_model", steps=1)
  c.model.outputs, c.model.vocab = 1, DIGITS.vocab_size
  c.task = c.task.__class__(
    {
      "name": "text",
      "train": str(source),
      "prompt_length": 8,
      "answer_length": 8,
      "tokenizer": str(folder.parent),
    }
  )
  c = freeze(c.to_dict())
  model = roles.policy(c.model).model
  variables = model.init(jax.random.key(seed))
  pretrained.export(folder, model.config, variables)
  DIGITS.save(folder)
  reward_models.record(folder, c, registry.task(c), model, variables, {})
  return folder


@pytest.fixture(scope="module")
def one(tmp_path_factory):
  return export(tmp_path_factory.mktemp("rm") / "one", 3)


@pytest.fixture(scope="module")
def several(tmp_path_factory):
  folder = tmp_path_factory.mktemp("rms") / "all"
  folder.mkdir()
  for k in range(3):
    export(folder / f"m{k}", k)
  about = [ensemble_card.Member(f"m{k}") for k in range(3)]
  ensemble_card.write(folder, ensemble_card.EnsembleCard(about, "min"))
  return folder


@pytest.fixture(autouse=True)
def rules(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  (tmp_path / "rules.py").write_text(RULES)


def online(path, rewards="", algorithm="grpo", **fields):
  """A config of an online run of a nano policy with another tokenizer."""
  c = nano.config(algorithm=algorithm, steps=1, eval__every=0, eval__prompts=4)
  c.model.vocab = OTHER.vocab_size
  c.log.tensorboard = False
  OTHER.save(".")
  with open("prompts.jsonl", "w", encoding="utf-8") as file:
    file.writelines(json.dumps(r) + "\n" for r in PROMPTS)
  c.task = c.task.__class__(
    {
      "name": "text",
      "train": "prompts.jsonl",
      "test": "prompts.jsonl",
      "prompt_length": 6,
      "tokenizer": ".",
      "rewards": rewards,
    }
  )
  c.reward.update(path=str(path), **fields)
  return freeze(c.to_dict())


def rolled(answers=ANSWERS):
  """Answers, one to each of the first prompts, and their batch."""
  n, p, t = len(answers), 5, 4
  ids, attend = np.zeros((n, p + t), np.int32), np.zeros((n, p + t), bool)
  action = np.zeros((n, p + t), bool)
  for i, answer in enumerate(answers):
    asked = OTHER.encode(PROMPTS[i]["prompt"])
    said = [*OTHER.encode(answer), OTHER.eos_ids[0]][:t]
    ids[i, p - len(asked) : p + len(said)] = asked + said
    attend[i, p - len(asked) : p + len(said)] = True
    action[i, p : p + len(said)] = True
  zeros = np.zeros((n, p + t), np.float32)
  fields = (ids, attend, action, action, zeros, np.arange(n), np.zeros(n), 0)
  columns = {k: [r[k] for r in PROMPTS[:n]] for k in PROMPTS[0]}
  return Rollout(*fields), {"columns": columns}  # pyright: ignore


def refused(call, *words):
  with pytest.raises(UserError) as error:
    call()
  said = str(error.value)
  assert len(said.splitlines()) == 3
  assert all(w in said for w in words), said


def scored(path, answers, normalise=True):
  """What `rlreward score` says of the answers, None where it says nothing."""
  with open("rows.jsonl", "w", encoding="utf-8") as file:
    for asked, answer in zip(PROMPTS, answers, strict=False):
      row = {"prompt": asked["prompt"], "completion": answer}
      file.write(json.dumps(row) + "\n")
  found = reward_models.load(path)
  scoring.run(found, "rows.jsonl", "scores.jsonl", normalise=normalise)
  with open("scores.jsonl", encoding="utf-8") as file:
    return [json.loads(x)["score"] for x in file]


def test_the_reward_is_what_the_command_says_of_the_same_text(one):
  task = registry.task(online(one))
  score = task.reward(*rolled())
  want = scored(one, ANSWERS)
  assert want[5] is None and not score.valid[5]
  assert score.components["status"][5] == 1  # abstains
  keep = [i for i in range(len(ANSWERS)) if i != 5]
  np.testing.assert_allclose(
    score.value[keep], [want[i] for i in keep], atol=1e-5
  )
  assert score.valid[keep].all() and np.std(score.value[keep]) > 0.1
  assert np.isnan(score.components["model"][5]) and score.value[5] == 0


def test_rules_join_by_weights_rule_gate_and_shape(one):
  raw = np.array([w if w is not None else np.nan for w in scored(one, ANSWERS)])
  right = np.array([float(a == r["answer"]) for a, r in
                    zip(ANSWERS, PROMPTS, strict=False)])  # fmt: skip
  keep = ~np.isnan(raw)

  def got(rewards="rules.py:right@2.0", **fields):
    return registry.task(online(one, rewards, **fields)).reward(*rolled())

  score = got(weight=0.5, rules=3.0)
  np.testing.assert_allclose(
    score.value[keep], (0.5 * raw + 6 * right)[keep], atol=1e-5
  )
  assert {"model", "rules", "right", "status"} <= set(score.components)
  assert not score.valid[5] and score.valid[keep].all()
  sig = 1 / (1 + np.exp(-raw))
  score = got(rule="product", shape="sigmoid")
  np.testing.assert_allclose(
    score.value[keep], (sig * 2 * right)[keep], atol=1e-5
  )
  score = got("rules.py:form", gate="form/digits", otherwise=-3.0)
  gated = np.array([a.isdigit() for a in ANSWERS])
  want = np.where(gated, raw, -3.0)
  np.testing.assert_allclose(score.value[keep], want[keep], atol=1e-5)


def test_an_ensemble_shows_its_members(several):
  score = registry.task(online(several)).reward(*rolled())
  each = np.stack([score.components[f"model/member/{k}"] for k in range(3)])
  keep = np.arange(len(ANSWERS)) != 5
  np.testing.assert_allclose(score.value[keep], each.min(0)[keep], atol=1e-5)
  np.testing.assert_allclose(
    score.components["model/spread"][keep], each.std(0)[keep], atol=1e-5
  )
  want = [w for w in scored(several, ANSWERS) if w is not None]
  np.testing.assert_allclose(score.value[keep], want, atol=1e-5)


def test_a_chat_goes_through_the_template_of_the_model(tmp_path, one):
  """Prompts are the data's messages, not the text that the policy saw."""
  task = registry.task(online(one))
  seen = []

  class Found:
    name, model = "probe", model_rewards.load(str(one), task).found.model

    def encode(self, row):
      seen.append(row)
      return reward_models.load(one).encode({"tokens": [1, 2]})

  chat = [{"role": "user", "content": "1+1="}]
  own = task._replace(spec={**task.spec, "asked": lambda row: row["messages"]})
  rollout, batch = rolled(["2"])
  batch["columns"]["messages"] = [chat]
  model_rewards.ModelReward(Found(), own)(rollout, batch)  # pyright: ignore
  assert seen == [{"prompt": chat, "completion": "2"}]


def test_texts_that_are_too_long_get_no_reward(one):
  task = registry.task(online(one, max_length=4))
  refused(lambda: task.reward(*rolled(["1", "22"])), "reads 4")
  task = registry.task(online(one, max_length=6))
  score = task.reward(*rolled(["1", "22"]))  # "1+0=", an answer and its eos
  assert score.valid.tolist() == [True, False]


def test_it_trains_a_policy_and_its_components_are_metrics(one, tmp_path):
  c = online(one, "rules.py:right")
  train.run(c, tmp_path / "run")
  lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
  row = next(r for r in map(json.loads, lines) if "loss" in r)
  assert np.isfinite(row["reward"]) and np.isfinite(row["reward/model"])
  evals = next(r for r in map(json.loads, lines) if "eval/reward" in r)
  assert np.isfinite(evals["eval/model"])


def test_a_model_may_be_held_out_as_gold(one):
  c = online(one, "rules.py:right")
  c = config.replace(c, {"reward.path": "", "eval.gold": str(one)})
  task = registry.task(c)
  rollout, batch = rolled(["1", "2"])
  assert task.gold is not None
  want = scored(one, ["1", "2"])
  np.testing.assert_allclose(task.gold(rollout, batch).value, want, atol=1e-5)
  assert task.reward(rollout, batch).value.tolist() == [1.0, 1.0]


def test_what_cannot_be_a_reward_is_refused(one, several, tmp_path):
  copy = shutil.copytree(one, tmp_path / "copy")
  (copy / reward_card.NAME).unlink()
  refused(
    lambda: registry.task(online(copy)),
    "no reward_model.json", "rlreward card",
  )  # fmt: skip
  broken = shutil.copytree(several, tmp_path / "broken")
  card = json.loads((broken / "m1" / reward_card.NAME).read_text())
  card["texts"] = 0
  (broken / "m1" / reward_card.NAME).write_text(json.dumps(card))
  refused(lambda: registry.task(online(broken)), "no mean and scale")
  moved = shutil.copytree(one, tmp_path / "moved")
  card = json.loads((moved / reward_card.NAME).read_text())
  card["golden"][2]["score"] += 0.5
  (moved / reward_card.NAME).write_text(json.dumps(card))
  refused(lambda: registry.task(online(moved)), "does not reproduce")
  c = nano.config(reward__path=str(one))
  refused(lambda: registry.task(freeze(c.to_dict())), "without text")
  refused(lambda: registry.task(online(one, gate="form")), "task.rewards")
  refused(lambda: registry.task(online(one, rule="most")), "rule='most'")
  refused(lambda: registry.task(online(one, shape="box")), "shape='box'")
  task = registry.task(online(one, "rules.py:model"))
  refused(lambda: task.reward(*rolled(["1"])), "called 'model'")


def test_a_task_without_a_reward_model_stays_as_it_is():
  task = text.make({"train": PROMPTS, "prompt_length": 8}, DIGITS)
  assert model_rewards.with_model(nano.config(), task) is task


# ------------------------------------------------------------ the card verb
def test_a_card_makes_a_foreign_model_a_reward(one, tmp_path, capsys):
  copy = shutil.copytree(one, tmp_path / "copy")
  (copy / reward_card.NAME).unlink()
  with open("answers.jsonl", "w", encoding="utf-8") as file:
    file.writelines(json.dumps(r) + "\n" for r in PAIRS)
  argv = ["card", f"--model={copy}", "--input=answers.jsonl"]
  assert cli.main([*argv, "--max_length=12"]) == 0
  assert "18 answers" in capsys.readouterr().out
  card = reward_card.read(copy)
  assert card is not None and card.max_length == 12 and len(card.golden) == 8
  loaded = reward_models.load(copy)
  ids = [loaded.encode(r).found[k].ids for r in PAIRS for k in (0, 1)]
  scores = loaded.model.scores(ids)
  assert card.mean == pytest.approx(np.mean(scores), abs=1e-5)
  assert card.scale == pytest.approx(np.std(scores), abs=1e-5)
  assert registry.task(online(copy)).spec["judged"]
  assert cli.main(argv) == 2  # never overwritten
  assert "exists" in capsys.readouterr().err


def test_a_directory_is_audited_with_and_without_fixtures(one, several, capsys):
  for folder in (one, several):
    code = cli.main(["audit-reward", str(folder), "--json"])
    found = json.loads(capsys.readouterr().out)
    assert code in (0, 1) and found["rows"] == 8
    assert "its own texts" in found["reward"]
    assert {p["name"] for p in found["probes"]} >= {"verbosity", "unicode_form"}
    assert found["judged"]["ok"] == 8
  rows = [
    {"prompt": "1+1=", "completion": "2", "label": True},
    {"prompt": "1+1=", "completion": "5", "label": False},
  ]
  with open("f.jsonl", "w", encoding="utf-8") as file:
    file.writelines(json.dumps(r) + "\n" for r in rows)
  argv = ["audit-reward", str(one), "--fixtures=f.jsonl", "--json"]
  assert cli.main(argv) in (0, 1)
  found = json.loads(capsys.readouterr().out)
  a, b = scored(one, ["2", "5"], normalise=False)
  del b
  assert found["rows"] == 2 and found["reward"] == str(one) and a is not None
  assert cli.main(["audit-reward", "rules.py:right"]) == 2
  assert "--fixtures" in capsys.readouterr().err


def test_parquet_is_scored_as_the_same_jsonl(one, tmp_path):
  import pyarrow
  import pyarrow.parquet

  rows = [
    {"prompt": r["prompt"], "completion": a, "n": [i]}
    for i, (r, a) in enumerate(zip(PROMPTS, ANSWERS, strict=False))
  ]
  pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), "a.parquet")
  with open("a.jsonl", "w", encoding="utf-8") as file:
    file.writelines(json.dumps(r) + "\n" for r in rows)
  found = reward_models.load(one)
  scoring.run(found, "a.jsonl", "one.jsonl")
  counts = scoring.run(found, "a.parquet", "two.jsonl")
  assert counts.lines == len(rows)
  assert (tmp_path / "one.jsonl").read_bytes() == (
    tmp_path / "two.jsonl"
  ).read_bytes()
