"""Ratings with missing attributes and step labels: layout, loss, real data."""

import json

import jax
import jax.numpy as jnp
import nano
import numpy as np
import pytest
from paths import shared_data
from test_rankings import BIG, TOK, letters, lines

from rlreward import registry
from rlreward.errors import UserError
from rlreward.tasks import ratings

NAN = float("nan")
ROWS = [
  {"prompt": "a=", "completion": "1", "help": 4, "true": None},
  {"prompt": "bb=", "completion": "22", "help": 0, "true": 2.0},
  {"prompt": "c=", "completion": "3", "true": 1},
  {"prompt": "d=", "completion": "45", "help": NAN, "true": 3},
]
STEPS = [
  {"prompt": "a=", "steps": ["1", "22"], "wrong": [2], "label": [1, 0.5]},
  {"prompt": "b=", "steps": ["3"], "wrong": [], "label": [None]},
]
SIZES = {"prompt_length": 4, "answer_length": 7}
BOTH = {"attributes": "help,true"}


def make(rows=ROWS, tok=TOK, **fields):
  return ratings.make({"train": rows, **SIZES, **fields}, tok)


def whole(task):
  """An epoch in the order of the source."""
  n = task.labelled("train", 1, 0).get_state()["rows"]
  b = next(task.labelled("train", n, 0))
  order = np.argsort(b["row"])
  return {k: v[order] for k, v in b.items()}


def test_missing_ratings_are_nan():
  task = make(**BOTH)
  b = whole(task)
  want = [[4, NAN], [0, 2], [NAN, 1], [NAN, 3]]
  np.testing.assert_array_equal(b["target"], np.float32(want))
  said = [TOK.decode(i[m]) for i, m in zip(b["tokens"], b["loss"], strict=True)]
  assert said == ["1", "22", "3", "45"] and task.spec["outputs"] == 2
  n = task.spec["report"]["train"]
  assert n.balance == {"help": (2, 2.0), "true": (3, 2.0)}
  ranged = whole(make(**BOTH, low=0.0, high=4.0))
  np.testing.assert_array_equal(ranged["target"], np.float32(want) / 4)


def test_steps_are_labelled_at_their_last_token():
  """By hand: 1 newline 2 2 newline eos."""
  b = whole(make(STEPS, steps="steps", step_errors="wrong"))
  one, two, three, line = TOK.encode("123\n")
  want = [one, line, two, two, line, TOK.eos_ids[0], TOK.pad_id]
  assert b["tokens"][0, 4:].tolist() == want
  label = [NAN, 1, NAN, NAN, 0, NAN, NAN]
  np.testing.assert_array_equal(b["step_label"][0], np.float32(label))
  assert b["tokens"][1, 4:7].tolist() == [three, line, TOK.eos_ids[0]]
  soft = whole(make(STEPS, steps="steps", step_labels="label"))
  label[4] = 0.5
  np.testing.assert_array_equal(soft["step_label"][0], np.float32(label))
  assert np.isnan(soft["step_label"][1]).all()


def test_an_iterator_goes_on_where_it_was():
  first = make(**BOTH).labelled("train", 3, 5)
  next(first)
  state = json.loads(json.dumps(first.get_state()))
  again = make(**BOTH).labelled("train", 3, 5)
  again.set_state(state)
  for _ in range(3):
    want = next(first)
    for k, v in next(again).items():
      np.testing.assert_array_equal(v, want[k])
  with pytest.raises(UserError, match="the data stream has changed"):
    make(ROWS[1:], **BOTH).labelled("train", 3, 5).set_state(state)


# -------------------------------------------------- the loss they feed
def method(task, kind, outputs):
  config = nano.config(
    algorithm="reward_model", task__name="ratings", model__layers=1,
    model__remat="none", model__outputs=outputs, prompts_per_step=4,
    model__vocab=task.spec["vocab_size"], reward_model__kind=kind,
  )  # fmt: skip
  return registry.algorithm("reward_model").make(config, task)


def test_a_missing_attribute_changes_neither_value_nor_gradient():
  task = make(**BOTH)
  made = method(task, "mse", 2)
  b = {k: jnp.asarray(v) for k, v in whole(task).items()}
  state = jax.jit(made.init)(jax.random.key(0))
  step = jax.jit(made.step)
  new, found = step(state, b, state.key)
  assert np.isfinite(found["loss"]) and np.isfinite(found["grad_norm"])
  # The mean is over the 5 ratings that are there: each alone, then together.
  total, mean = 0.0, None
  known = np.argwhere(np.isfinite(np.asarray(b["target"])))
  for i, k in known:
    only = np.full((4, 2), np.nan, np.float32)
    only[i, k] = b["target"][i, k]
    one, said = step(state, {**b, "target": jnp.asarray(only)}, state.key)
    total += float(said["loss"])
    moved = jax.tree.map(lambda a, z: np.float64(a) - z, one.params,
                         state.params)  # fmt: skip
    mean = moved if mean is None else jax.tree.map(np.add, mean, moved)
  assert len(known) == 5
  np.testing.assert_allclose(found["loss"], total / 5, rtol=1e-5)
  # Adam with a large eps is linear in the gradient up to g / eps = 1e-3.
  moved = jax.tree.map(lambda a, z: np.float64(a) - z, new.params, state.params)
  size = max(np.abs(x).max() for x in jax.tree.leaves(moved))
  share = jax.tree.map(lambda x: x / 5, mean)
  assert nano.gap(moved, share) < 0.02 * size


def test_steps_feed_their_loss():
  task = make(STEPS, steps="steps", step_errors="wrong")
  made = method(task, "steps", 1)
  b = {k: jnp.asarray(v) for k, v in whole(task).items()}
  state = jax.jit(made.init)(jax.random.key(0))
  held = made.held(state, b)
  assert float(held["loss"][1]) == 3 and np.isfinite(held["loss"][0])


@pytest.mark.parametrize(
  ("kind", "outputs", "said"),
  [("mse", 1, "judges 2"), ("steps", 1, "holds ratings"),
   ("plackett_luce", 1, "holds ratings")],
)  # fmt: skip
def test_a_loss_that_cannot_read_them_is_refused(kind, outputs, said):
  with pytest.raises(UserError, match=said):
    method(make(**BOTH), kind, outputs)


# -------------------------------------------------- real data
def test_real_step_labels_by_config_alone():
  folder = shared_data("prmbench")
  names = sorted(p.name for p in folder.glob("*.jsonl.gz"))
  rows = [r for n in names for r in lines("prmbench", n)[1]]
  fields = {"prompt": "question", "steps": "modified_process",
            "step_errors": "error_steps"}  # fmt: skip
  where, tok = str(folder / "*.jsonl.gz"), letters(rows)
  with pytest.raises(UserError, match=r"row \d+ of .*prmbench.*error_steps"):
    make(where, tok, **fields, **BIG)  # errors at steps that are not there
  task = make(where, tok, on_bad="drop", **fields, **BIG)
  n = task.spec["report"]["train"]
  beyond = [max(r["error_steps"]) > len(r["modified_process"]) for r in rows]
  empty = ["" in r["modified_process"] for r in rows]
  assert (sum(beyond), sum(empty)) == (21, 1)
  assert (n.rows, n.bad, n.kept) == (718, 22, 696)
  b = next(task.labelled("train", 64, 0))
  for i, row in enumerate(b["row"]):
    label = b["step_label"][i]
    steps, wrong = (rows[row][k] for k in ("modified_process", "error_steps"))
    want = [float(k not in wrong) for k in range(1, len(steps) + 1)]
    assert label[np.isfinite(label)].tolist() == want


# -------------------------------------------------- bad input
def bad(rows, **fields):
  return [*rows, {**rows[1], **fields}]


STEP = {"steps": "steps", "step_errors": "wrong"}
SOFT = {"steps": "steps", "step_labels": "label"}
BAD = {
  "all missing": (bad(ROWS, help=None, true=None), BOTH),
  "text": (bad(ROWS, help="4"), BOTH),
  "infinite": (bad(ROWS, help=float("inf")), BOTH),
  "range": (bad(ROWS, help=5), {**BOTH, "low": 0.0, "high": 4.0}),
  "empty": (bad(ROWS, completion=""), BOTH),
  "step number": (bad(STEPS, wrong=[2]), STEP),
  "step zero": (bad(STEPS, wrong=[0]), STEP),
  "errors": (bad(STEPS, wrong=2), STEP),
  "steps": (bad(STEPS, steps="1"), STEP),
  "empty step": (bad(STEPS, steps=["1", " "]), STEP),
  "label count": (bad(STEPS, label=[1, 1]), SOFT),
  "label size": (bad(STEPS, label=[2]), SOFT),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_rows_are_named_by_file_and_row(case, tmp_path):
  rows, fields = BAD[case]
  file = tmp_path / "rated.jsonl"
  file.write_text("".join(json.dumps(r) + "\n" for r in rows))
  at = rf"row {len(rows) - 1} of .*rated\.jsonl"
  with pytest.raises(UserError, match=at) as caught:
    make(str(file), **fields)
  assert len(str(caught.value).split("\n")) == 3
  n = make(str(file), on_bad="drop", **fields).spec["report"]["train"]
  assert n.bad == 1 and any("unreadable" in w for w in n.warnings())


@pytest.mark.parametrize(
  "fields",
  [{"attributes": ""}, {"attributes": "help,help"}, {"attributes": "helps"},
   {"attributes": "help", "low": 1.0}, {"steps": "steps"}],
)  # fmt: skip
def test_bad_fields(fields):
  with pytest.raises(UserError) as caught:
    make(**fields)
  assert len(str(caught.value).split("\n")) == 3
