"""Rankings of K answers: layout, orders, real data, and the loss they feed."""

import gzip
import itertools
import json

import jax
import jax.numpy as jnp
import nano
import numpy as np
import pytest
from paths import shared_data

from rlreward import registry
from rlreward.errors import UserError
from rlreward.models import transformer
from rlreward.steps import roles
from rlreward.tasks import rankings
from rlreward.tasks.tokens import CharTokenizer

TOK = CharTokenizer("abcdefghijklmnopqrstuvwxyz0123456789+-*=?:,.|<> \n")
ROWS = [
  {"prompt": "a=", "completions": ["1", "22", "3"], "scores": [1, 5, 1.0]},
  {"prompt": "bb=", "completions": ["4", "5"], "scores": [0.5, 2]},
  {"prompt": "c=", "completions": list("6789"), "scores": [4, 3, 2, 1]},
  {"prompt": "d=", "completions": ["x", "yy"], "scores": [1, 1]},
]
SIZES = {"prompt_length": 6, "answer_length": 3}


def make(rows=ROWS, tok=TOK, **fields):
  return rankings.make({"train": rows, **SIZES, **fields}, tok)


def whole(rows=ROWS, tok=TOK, **fields):
  """{prompt: [(answer, rank)]} of an epoch; fillers left out."""
  task = make(rows, tok, **fields)
  size = task.labelled("train", 1, 0).get_state()["rows"]
  b = next(task.labelled("train", size, 0))
  out = {}
  for i in np.flatnonzero(b["valid"]):
    ids, attend, loss = (b[k][i] for k in ("tokens", "attend", "loss"))
    prompt = tok.decode(ids[attend & ~loss])
    said = (tok.decode(ids[loss]), float(b["rank"][i]))
    out.setdefault(prompt, []).append(said)
  return out, b, task


def test_scores_become_places_and_short_rows_are_filled():
  found, b, task = whole()
  assert found == {
    "a=": [("1", 2), ("22", 1), ("3", 2)],
    "bb=": [("4", 2), ("5", 1)],
    "c=": [("6", 1), ("7", 2), ("8", 3), ("9", 4)],
    "d=": [("x", 1), ("yy", 1)],
  }
  assert task.spec["answers"] == 4
  assert b["tokens"].shape == (16, 9) and b["valid"].sum() == 11
  assert b["rank"].dtype == np.float32 and b["valid"].dtype == bool
  filled = ~b["valid"]
  assert not b["loss"][filled].any()
  first = b["tokens"].reshape(4, 4, 9)[:, :1].repeat(4, 1).reshape(16, 9)
  np.testing.assert_array_equal(b["tokens"][filled], first[filled])
  np.testing.assert_array_equal(b["row"].reshape(4, 4).std(1), 0)
  said = task.spec["report"]["train"]
  # By hand: 3 + 1 + 6 + 1 comparisons; a has one tie and d is one.
  assert (said.kept, said.comparisons, said.ties) == (4, 11, 2)


def test_ranks_a_best_one_and_columns_of_answers():
  rows = [{**r, "place": [-s for s in r["scores"]]} for r in ROWS]
  np.testing.assert_equal(whole(rows, ranks="place")[0], whole()[0])
  rows = [
    {"prompt": "a=", "x": "1", "y": "2", "z": "3", "n": 2},
    {"prompt": "b=", "x": "1", "y": None, "z": "3", "n": 3},
    {"prompt": "c=", "x": "1", "y": "2", "z": "3", "n": 0},
    {"prompt": "d=", "x": "1", "y": "2", "z": "3", "n": None},
  ]
  found, _, task = whole(rows, answers="x,y,z", best="n")
  assert found == {
    "a=": [("1", 2), ("2", 1), ("3", 2)],
    "b=": [("1", 2), ("3", 1)],
    "c=": [("1", 1), ("2", 1), ("3", 1)],
    "d=": [("1", 1), ("2", 1), ("3", 1)],
  }
  balance = task.spec["report"]["train"].balance
  assert balance["answer 2 is best"] == (2, 1.0)  # b's third is its second


def test_equal_answers_are_dropped_or_kept_and_counted():
  rows = [*ROWS, {"prompt": "e=", "completions": ["1", "1"], "scores": [1, 2]}]
  found, _, task = whole(rows)
  assert "e=" not in found and task.spec["report"]["train"].equal == 1
  found, _, task = whole(rows, on_equal="keep")
  assert found["e="] == [("1", 2), ("1", 1)]
  assert task.spec["report"]["train"].equal == 1


def test_long_rankings_are_dropped_whole():
  rows = [*ROWS, {"prompt": "e=", "completions": ["1", "123"],
                  "scores": [1, 2]}]  # fmt: skip
  found, _, task = whole(rows)
  said = task.spec["report"]["train"]
  assert "e=" not in found and said.overlong == 1 and said.longest_answer == 4


def test_an_iterator_goes_on_where_it_was():
  task = make()
  straight = task.labelled("train", 3, 5)
  want = [next(straight) for _ in range(5)]  # over the edge of an epoch
  first = task.labelled("train", 3, 5)
  for _ in range(2):
    next(first)
  again = make().labelled("train", 3, 5)
  again.set_state(json.loads(json.dumps(first.get_state())))
  for batch in want[2:]:
    for k, v in next(again).items():
      np.testing.assert_array_equal(v, batch[k])
  with pytest.raises(UserError, match="the data stream has changed"):
    make(ROWS[:3]).labelled("train", 3, 5).set_state(first.get_state())


def test_hosts_read_their_slices():
  every = next(make().labelled("train", 4, 0))
  own = [
    next(
      rankings.make(
        {"train": ROWS, **SIZES}, TOK, process_index=i, process_count=2
      ).labelled("train", 4, 0)
    )
    for i in range(2)
  ]
  for k, v in every.items():
    np.testing.assert_array_equal(np.concatenate([o[k] for o in own]), v)


# -------------------------------------------------- the loss they feed
def method(task, **changes):
  config = nano.config(
    algorithm="reward_model", task__name="rankings", model__layers=1,
    model__remat="none", model__outputs=1, model__vocab=task.spec["vocab_size"],
    prompts_per_step=4, **changes,
  )  # fmt: skip
  return registry.algorithm("reward_model").make(config, task)


def scored(state, task, b):
  """f64[N]: the score at the end of each answer, every row alone."""
  c = nano.config(
    model__layers=1, model__remat="none", model__outputs=1,
    model__vocab=task.spec["vocab_size"],
  )  # fmt: skip
  decoder = transformer.build(roles.model_config(c.model))
  params = state.params["policy"]
  x = decoder.hidden(params, b["tokens"], b["attend"])
  last = [np.flatnonzero(a)[-1] for a in np.asarray(b["attend"])]
  x = x[np.arange(len(last)), np.asarray(last)]
  return (
    np.asarray(x, np.float64)
    @ np.asarray(params["params"]["score"]["kernel"], np.float64)[:, 0]
  )


def arrays(b):
  return {k: jnp.asarray(v) for k, v in b.items()}


def test_the_loss_is_plackett_luce():
  """A float64 loop; f32 sums of a nano model, so 1e-5 relative."""
  task = make()
  made = method(task, reward_model__kind="plackett_luce",
                reward_model__scale=2.0)  # fmt: skip
  b = next(task.labelled("train", 4, 0))
  state = jax.jit(made.init)(jax.random.key(0))
  s = 2 * scored(state, task, b)
  total, right, compared = 0.0, 0.0, 0
  for row in range(4):
    own = [i for i in range(4 * row, 4 * row + 4) if b["valid"][i]]
    for i in own:
      left = [j for j in own if b["rank"][j] >= b["rank"][i]]
      total -= s[i] - np.log(sum(np.exp(s[j]) for j in left))
    for i, j in itertools.permutations(own, 2):
      if b["rank"][i] < b["rank"][j]:
        compared, right = compared + 1, right + (s[i] > s[j])
  held = made.held(state, arrays(b))
  np.testing.assert_allclose(held["loss"][0], total, rtol=1e-5)
  assert float(held["loss"][1]) == 4
  np.testing.assert_allclose(held["accuracy"], (right, compared))
  # Neither what fills up nor where pieces are cut changes an update.
  new, _ = jax.jit(made.step)(state, arrays(b), state.key)
  other = np.where(b["valid"][:, None] | ~b["attend"], b["tokens"], 9)
  other[:, : SIZES["prompt_length"]] = b["tokens"][:, : SIZES["prompt_length"]]
  junk = {**b, "tokens": other, "rank": np.where(b["valid"], b["rank"], np.nan)}
  assert (junk["tokens"] != b["tokens"]).any()
  again, _ = jax.jit(made.step)(state, arrays(junk), state.key)
  assert nano.gap(new.params, again.params) == 0
  assert nano.gap(new.params, state.params) > 1e-4
  cut = method(task, reward_model__kind="plackett_luce",
               reward_model__scale=2.0, microbatch=4)  # fmt: skip
  pieces, _ = jax.jit(cut.step)(state, arrays(b), state.key)
  assert nano.gap(new.params, pieces.params) < 1e-6


def test_two_answers_are_bradley_terry():
  rows = [r for r in ROWS if len(r["scores"]) == 2][:1] + [
    {"prompt": "f=", "completions": ["1", "23"], "scores": [3, 2]},
    {"prompt": "g=", "completions": ["x", "y"], "scores": [0, 2]},
    {"prompt": "h=", "completions": ["z", "y"], "scores": [4, 2]},
  ]
  task = make(rows)
  made = method(task, reward_model__kind="plackett_luce")
  b = next(task.labelled("train", 4, 0))
  state = jax.jit(made.init)(jax.random.key(0))
  best = np.argsort(b["rank"].reshape(4, 2), 1, kind="stable")
  order = (2 * np.arange(4)[:, None] + best).reshape(-1)
  pairs = {k: b[k][order] for k in ("tokens", "attend", "loss")}
  paired = task._replace(
    preferences=task.labelled, spec={**task.spec, "labels": ""}
  )
  bt = method(paired, reward_model__centering=0.0)
  listed, twos = made.held(state, arrays(b)), bt.held(state, arrays(pairs))
  np.testing.assert_allclose(listed["loss"], twos["loss"], rtol=1e-6)
  np.testing.assert_allclose(listed["accuracy"], twos["accuracy"])
  a, _ = jax.jit(made.step)(state, arrays(b), state.key)
  z, _ = jax.jit(bt.step)(state, arrays(pairs), state.key)
  assert nano.gap(a.params, z.params) < 1e-6  # sums in another order


@pytest.mark.parametrize(
  ("changes", "said"),
  [
    ({"reward_model__kind": "mse"}, "holds ranks"),
    ({"reward_model__kind": "bradley_terry"}, "holds ranks"),
  ],
)
def test_a_loss_that_reads_no_ranks_is_refused(changes, said):
  with pytest.raises(UserError, match=said):
    method(make(), **changes)


# -------------------------------------------------- real data
def letters(rows):
  return CharTokenizer("".join(sorted({c for r in rows for c in json.dumps(
    r, ensure_ascii=False)} | {"\n", "\t", "\r"})))  # fmt: skip


def lines(folder, file):
  path = shared_data(folder) / file
  with gzip.open(path, "rt", encoding="utf-8") as f:
    return str(path), [json.loads(line) for line in f]


BIG = {"prompt_length": 9000, "answer_length": 11000}


def test_real_llmbar_by_config_alone():
  path, rows = lines("llmbar", "natural.jsonl.gz")
  fields = {"prompt": "input", "answers": "output_1,output_2", "best": "label"}
  _, b, task = whole(path, letters(rows), **fields, **BIG)
  n = task.spec["report"]["train"]
  assert (n.kept, n.comparisons, n.ties, n.equal) == (100, 100, 0, 0)
  assert n.balance["answer 1 is best"] == (100, 0.42)
  for i, row in enumerate(b["row"][0::2]):
    assert b["rank"][2 * i : 2 * i + 2].argmin() + 1 == rows[row]["label"]


@pytest.mark.parametrize(
  ("file", "kept", "equal", "ties"),
  [
    ("alpaca-7b_vs_davinci003", 296, 4, 0),
    ("alpaca-farm-ppo-human_vs_davinci003", 298, 2, 0),
    ("oasst-rlhf-llama-33b_vs_davinci003", 300, 0, 0),
  ],
)
def test_real_alpaca_eval_by_config_alone(file, kept, equal, ties):
  path, rows = lines("alpaca_eval1_pairs", f"{file}_first300.jsonl.gz")
  fields = {"answers": "output_1,output_2", "best": "preference"}
  task = make(path, letters(rows), prompt="instruction", **fields, **BIG)
  n = task.spec["report"]["train"]
  assert (n.rows, n.kept, n.equal, n.ties) == (300, kept, equal, ties)


def test_real_best_of_n_with_losers_that_tie():
  _, raw = lines("rmb", "bon_casual_conversation.jsonl.gz")

  def source():
    for r in raw:
      said = [r["bon_best"], *r["loser_list"]]
      yield {
        "prompt": r["conversation_input"][0]["content"],
        "completions": [a["answer"] for a in said],
        "best": 1,
      }

  task = make(source, letters(raw), best="best", on_equal="keep", **BIG)
  n, sizes = task.spec["report"]["train"], [len(r["loser_list"]) for r in raw]
  assert n.kept == len(raw) and task.spec["answers"] == max(sizes) + 1
  assert n.ties == sum(k * (k - 1) // 2 for k in sizes)
  assert n.comparisons - n.ties == sum(sizes)


# -------------------------------------------------- bad input
def bad(**fields):
  row = {"prompt": "a=", "completions": ["1", "2"], "scores": [1, 2]}
  row = {k: v for k, v in {**row, **fields}.items() if v is not ...}
  return [*ROWS, row]


BAD = {
  "one answer": bad(completions=["1"], scores=[1]),
  "no list": bad(completions="12"),
  "sizes": bad(scores=[1, 2, 3]),
  "none": bad(scores=[1, None]),
  "nan": bad(scores=[1, float("nan")]),
  "empty answer": bad(completions=["1", ""]),
  "kind": bad(completions=["1", 2]),
  "no scores": bad(scores=...),
  "character": bad(completions=["1", "é"]),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_rows_are_named_by_file_and_row(case, tmp_path):
  file = tmp_path / "judged.jsonl"
  file.write_text("".join(json.dumps(r) + "\n" for r in BAD[case]))
  with pytest.raises(UserError, match=r"row 4 of .*judged\.jsonl") as caught:
    make(str(file))
  assert len(str(caught.value).split("\n")) == 3
  if case != "no scores":
    assert make(str(file), on_bad="drop").spec["report"]["train"].bad == 1


@pytest.mark.parametrize(
  "fields",
  [
    {"ranks": "r", "best": "b"},
    {"scores": ""},
    {"most": 3},
    {"answer_length": (3, 4)},
    {"on_equal": "cut"},
    {"scores": "score"},
    {"holdout": 2},
  ],
)
def test_bad_fields(fields):
  with pytest.raises(UserError) as caught:
    make(**fields)
  assert len(str(caught.value).split("\n")) == 3
