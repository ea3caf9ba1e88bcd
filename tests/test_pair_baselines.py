"""What a reward model of real pairs is held against, and its files."""

import gzip
import importlib.util
import json

import numpy as np
import paths
import pytest

from experiments import hh_reward, pair_baselines
from experiments.pair_baselines import Pair
from rlreward import config

RESULT = paths.REPO / "results" / "hh_reward.json"


def example():
  spec = importlib.util.spec_from_file_location(
    "hh_example", paths.REPO / "examples" / "hh.py"
  )
  assert spec and spec.loader
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


def test_the_fit_is_the_optimum_of_its_loss():
  """The gradient vanishes, and it is the one of Newton over the words."""
  rng = np.random.default_rng(0)
  for shape in ((40, 7), (12, 30)):
    x = rng.normal(size=shape) + 0.3
    w = pair_baselines.fit(x, 0.7)
    p = 1 / (1 + np.exp(x @ w))
    np.testing.assert_allclose(0.7 * w, x.T @ p, atol=1e-8)
    other = np.zeros(shape[1])
    for _ in range(50):
      p = 1 / (1 + np.exp(x @ other))
      hess = (x * (p * (1 - p))[:, None]).T @ x + 0.7 * np.eye(shape[1])
      other += np.linalg.solve(hess, x.T @ p - 0.7 * other)
    np.testing.assert_allclose(w, other, atol=1e-8)


def test_a_planted_word_is_found_and_coins_are_not():
  rng = np.random.default_rng(1)
  word = lambda: " ".join(rng.choice(["a", "b", "c", "d"], 6))

  def pair(planted):
    good, bad = word(), word()
    return Pair("", good + " sorry" * planted, bad)

  train = [pair(True) for _ in range(80)]
  test = [pair(True) for _ in range(60)]
  found = pair_baselines.bag_of_words(train, test)
  assert pair_baselines.accuracy(found["margin"]) > 0.95
  assert found["best"][0] == "sorry"
  coins = pair_baselines.bag_of_words(
    [pair(False) for _ in range(80)], [pair(False) for _ in range(400)]
  )
  assert abs(pair_baselines.accuracy(coins["margin"]) - 0.5) < 0.1


def test_the_rule_of_length_is_learned_in_training_alone():
  shorter = [Pair("", "a", "bb")] * 3 + [Pair("", "cc", "d")]
  longer = [Pair("", "cc", "d"), Pair("", "c", "d")]
  found = pair_baselines.length(shorter, longer)
  assert found["rule"] == "the shorter answer"
  assert pair_baselines.accuracy(found["margin"]) == 0.25  # a tie is half


def test_intervals_widen_where_pairs_share_a_dialogue():
  rng = np.random.default_rng(2)
  won = np.repeat(rng.normal(size=60), 5)  # five alike pairs of a dialogue
  own = [str(i) for i in range(300)]
  shared = [str(i // 5) for i in range(300)]
  a = pair_baselines.measured(won, own)
  b = pair_baselines.measured(won, shared)
  width = lambda m: m["bootstrap"][1] - m["bootstrap"][0]
  assert width(b) > 1.7 * width(a) and a["wilson"] == b["wilson"]
  gap = pair_baselines.lead(won, -won, own)
  assert gap["lead"] == pytest.approx(2 * a["accuracy"] - 1)
  assert pair_baselines.lead(won, won, own)["bootstrap"] == [0.0, 0.0]


def test_the_example_cuts_whole_dialogues(tmp_path):
  module = example()
  turn = lambda *said: "".join(
    f"\n\n{who}: {x}"
    for who, x in zip(("Human", "Assistant") * 9, said, strict=False)
  )
  rows = [
    {"chosen": turn(f"q{i}", "a", "more", "good"),
     "rejected": turn(f"q{i}", "a", "more", "bad one")}
    for i in range(40)
    for _ in range(2)
  ]  # fmt: skip
  rows.append({"chosen": turn("q", "a"), "rejected": turn("q", "a")})
  source = tmp_path / "pairs.jsonl.gz"
  with gzip.open(source, "wt") as file:
    file.writelines(json.dumps(r) + "\n" for r in rows)
  counts = module.cut(source, tmp_path / "out")
  read = lambda name: [
    json.loads(x)
    for x in (tmp_path / "out" / f"{name}.jsonl").read_text().splitlines()
  ]
  train, test, (spec, *labelled) = map(read, ("train", "test", "fixtures"))
  assert counts == {"train": len(train), "test": len(test), "same": 1}
  assert sorted(map(str, train + test)) == sorted(map(str, rows[:-1]))
  opened = lambda part: {r["chosen"].split("\n\nAssistant:")[0] for r in part}
  assert not opened(train) & opened(test) and len(test) >= 4
  assert spec == {"spec": module.SPEC} and len(labelled) == 2 * len(test)
  assert labelled[0]["prompt"].endswith("more\n\nAssistant:")
  assert labelled[0]["completion"] == " good" and labelled[0]["label"]
  assert labelled[1]["completion"] == " bad one" and not labelled[1]["label"]


def made_up():
  rng = np.random.default_rng(0)
  words = lambda: " ".join(rng.choice(["no", "yes", "so", "a"], 5))
  pairs = [Pair(f"p{i}", words(), words()) for i in range(60)]
  each = [rng.normal(size=(60, 2)) for _ in range(3)]
  report = {"sections": [{"passed": False, "name": "auroc", "says": "0.5"}]}
  return {
    "seeds": [0, 1, 2],
    "holds": False,
    "pairs": {"train": 60, "test": 60},
    "compared": hh_reward.compare(pairs, pairs, each),
    "audit": report,
  }


def test_table_and_figure(tmp_path):
  result = made_up()
  said = hh_reward.table(result)
  assert "reward model, seed 2" in said and "bag of words" in said
  assert "FAIL  auroc" in said and "holds: False" in said
  for m, s in zip(result["compared"]["models"], (0, 1, 2), strict=True):
    assert f"seed {s} | {m['accuracy']:.3f}" in said
  hh_reward.draw(result, tmp_path / "a.png")
  assert (tmp_path / "a.png").stat().st_size > 10_000


def test_the_claim_can_fail():
  claim = config.study("configs/hh_reward.py:mini").claim
  arm = lambda a, b: {
    "bradley_terry": {"first/held/accuracy": a, "last/held/accuracy": b}
  }
  assert claim is not None and claim(arm(0.48, 0.56))
  assert not claim(arm(0.48, 0.5)) and not claim(arm(0.55, 0.55))
  for preset in ("mini", "pod"):
    c = config.load(f"configs/hh_reward.py:{preset}")
    config.check_complete(c)
    assert c.model.outputs == 1 and c.task.window == 16


@pytest.mark.skipif(not RESULT.exists(), reason="not measured yet")
def test_the_record_is_that_of_its_scores():
  result = json.loads(RESULT.read_text())
  assert len(result["seeds"]) >= 3
  assert RESULT.with_suffix(".md").read_text() == hh_reward.table(result)
  runs = result["arms"]["bradley_terry"]["runs"]
  found = result["compared"]
  for run, margin, m in zip(
    runs, found["margins"], found["models"], strict=True
  ):
    assert pair_baselines.accuracy(np.asarray(margin)) == m["accuracy"]
    # The exported model in `score` says what the run said of the same pairs.
    assert m["accuracy"] == pytest.approx(
      run["last"]["held/accuracy"], abs=0.01
    )
