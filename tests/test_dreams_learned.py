"""A learned reward on the tiny Llama: its comparisons, configs, the record."""

import json

import numpy as np
import paths
import pytest

from experiments import dreams_learned as learned
from rlreward import config as config_lib

RESULT = paths.REPO / "results" / "dreams_learned.json"


def dream(text, finish="length", prompt="I sense"):
  return {"prompt": prompt, "completion": text, "finish": finish}


def rows(n=40):
  """Openings with pairs of a calm, finished dream and a dull one."""
  good = "a gentle light, a soft echo that will not fade from the old pond."
  found = []
  for i in range(n):
    for k in range(learned.DREAMS // 2):
      found.append(dream(f" {i}{k} {good}", "stop", f"p{i}"))
      found.append(dream(f" {i}{k} the the the", "length", f"p{i}"))
  return found


def test_openings_are_held_out_whole():
  train, test = learned.prompts()
  assert len(train) == 78 and len(test) == 18
  assert not set(train) & set(test)
  assert {p.split(" tonight")[0] for p in test} & {"Colors", "A distant"}


def test_held_out_labels_are_those_of_gold():
  found = learned.compared(rows(), np.random.default_rng(0), False)
  assert len(found) == 40 * learned.PAIRS
  for row in found:
    assert "gentle" in row["chosen"] and "the the" in row["rejected"]
    assert row["prompt"].startswith("p")


def test_noisy_labels_err_as_often_as_is_said():
  # The gap of gold is 0.8 or more: the comparison is sure, the flip is not.
  many = rows(500)
  assert learned.gold(many[0]) - learned.gold(many[1]) > 0.6
  found = learned.compared(many, np.random.default_rng(1), True)
  wrong = np.mean(["the the" in row["chosen"] for row in found])
  # 2000 labels: 4 standard errors of a share of 0.1 are 0.027.
  assert wrong == pytest.approx(learned.FLIP, abs=0.027)


def test_equal_dreams_are_no_held_out_comparison():
  same = [dream(" a pond"), dream(" a pond")] * (learned.DREAMS // 2)
  tied = [dream(" a pond"), dream(" a lake")] * (learned.DREAMS // 2)
  rng = np.random.default_rng(0)
  assert not learned.compared(same, rng, True)
  assert not learned.compared(tied, rng, False)
  assert len(learned.compared(tied, rng, True)) == learned.PAIRS


def test_configs_are_complete(tmp_path):
  learned.write(tmp_path / "test.jsonl", [{"prompt": "a"}] * 3)
  c = learned.reward_config("m", tmp_path, 1)
  config_lib.check_complete(c)
  assert c.model.outputs == 1 and c.eval.prompts == 3
  for name in learned.ARMS:
    c = learned.policy_config("m", tmp_path, 1, name)
    config_lib.check_complete(c)
    assert c.kl_reward.budget == learned.NATS and c.eval.gold
    assert "rewards" not in c.task  # gold is never trained on
    assert c.reward.path.endswith("model")


def made_up():
  row = lambda gold, proxy: {"reward": gold, "proxy": proxy, "kl": 4.0}
  sample = {**dream(" a\n pond"), "gold": 0.4}
  run = {"evals": {"0": row(0.4, 0.0), "20": row(0.7, 1.0),
                   "60": row(0.6, 2.0)}}  # fmt: skip
  model = {"held": {"held/accuracy": 0.75}, "pairs": {"train": 9, "test": 5}}
  seed = {"seed": 0, "reward_model": model, **dict.fromkeys(learned.ARMS, run)}
  seeds = [seed, {**seed, "seed": 1}]
  return {"seeds": seeds, "summary": learned.summary(seeds),
          "samples": {"base": [sample], "raw": [sample]}}  # fmt: skip


def test_the_table():
  text = learned.table(made_up())
  assert "0.75, 0.75 of the held-out pairs" in text
  line = "| par | 0.400, 0.400 | 0.600, 0.600 | 0.700, 0.700 | 2.00, 2.00 |"
  assert line + " 4.0, 4.0 |" in text
  assert text.count("- 0.40 I sense a pond") == 2
  assert "Dreams of the checkpoint, seed 0" in text


def test_dreams_of_distinct_openings_are_shown(tmp_path):
  rows = [{"prompt": f"p{i // 2}", "completion": f"{i}", "reward": i / 20}
          for i in range(14)]  # fmt: skip
  learned.write(tmp_path / "par/samples/eval_0.jsonl", rows)
  found = learned.shown(tmp_path, "base")
  assert [row["completion"] for row in found] == ["0", "2", "4", "6", "8"]
  assert found[1] == {"prompt": "p1", "completion": "2", "gold": 0.1}


@pytest.mark.skipif(not RESULT.exists(), reason="not measured yet")
def test_the_page_is_that_of_the_record():
  result = json.loads(RESULT.read_text())
  assert learned.summary(result["seeds"]) == result["summary"]
  page = RESULT.with_suffix(".md").read_text()
  assert learned.table(result) == page
