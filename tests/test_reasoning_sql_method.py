"""Reasoning-SQL: the weighted sum and its gate, ranks, refusals, the claim."""

import importlib
import math
from typing import Any

import jax
import jax.numpy as jnp
import nano
import numpy as np
import pytest

from rlreward import config as config_lib
from rlreward import errors, registry
from rlreward.configfile import execute, find
from rlreward.methods import reasoning_sql
from rlreward.rewards import execute as running
from rlreward.rewards import sql_parts, values
from rlreward.types import Score

SPEC = "configs/reasoning_sql.py"
STUDY = config_lib.study(SPEC)
FILE = vars(execute(find(SPEC)))
BASE = "CREATE TABLE t (a, b); INSERT INTO t VALUES (1, 2), (3, 4);"
PAPER = dict(sql_parts.WEIGHTS)


def section(**changes) -> Any:
  return nano.config(**{f"sql__{k}": v for k, v in changes.items()}).sql


def paid(rows, weights=None, prompts=1) -> Any:
  """Score of a list of {part: value}, all of one prompt or split evenly."""
  names = dict.fromkeys(k for r in rows for k in r)
  parts = {k: jnp.asarray([r.get(k, 0.0) for r in rows]) for k in names}
  score = Score(jnp.zeros(len(rows)), jnp.ones(len(rows), bool), None, parts)
  reward: Any = reasoning_sql.weighed(lambda *_: score, weights or PAPER)
  return reward(None, {"prompt": np.zeros((prompts, 1))})


RIGHT = {"execution": 1.0, "syntax": 1.0}
WRONG = {"execution": 0.0, "judge": 1.0, "syntax": 1.0, "schema": 1.0,
         "ngram": 0.9, "format": 1.0}  # fmt: skip


# ------------------------------------------------------------ the sum
def test_the_judge_counts_only_where_execution_gives_nothing():
  judged = {**RIGHT, "judge": 1.0}
  found = paid([RIGHT, judged, WRONG, {**WRONG, "judge": 0.5}])
  np.testing.assert_allclose(found.value, [4, 4, 5.9, 4.9], rtol=1e-6)
  # The host's sum is the same.
  for row, value in zip((judged, WRONG), (4, 5.9), strict=True):
    rest = {k: v for k, v in row.items() if k != "judge"}
    said = sql_parts.combine({**rest}, PAPER, row["judge"])
    assert said["value"] == pytest.approx(value)


def test_wrong_above_right_inside_a_group():
  rows = [RIGHT, WRONG, {"execution": 0.0, "judge": 0.0}, RIGHT]
  found = paid(rows).components["outranked"]
  np.testing.assert_allclose(found, [0.5, np.nan, np.nan, 0.5])
  safe = paid(rows, {**PAPER, "execution": 6.5}).components["outranked"]
  np.testing.assert_allclose(safe, [0, np.nan, np.nan, 0])
  # In groups of its own a wrong one outranks nobody.
  apart = paid([RIGHT, RIGHT, WRONG, WRONG], prompts=2)
  assert np.isnan(apart.components["outranked"]).all()


def test_a_part_that_is_unknown_takes_the_judgement_away():
  found = paid([{**WRONG, "schema": math.nan}, WRONG])
  assert found.valid.tolist() == [False, True] and found.value[0] == 0
  with pytest.raises(errors.UserError, match="judge"):
    paid([RIGHT])  # the weights ask for a judge that the reward has not


# ------------------------------------------------------------ ranks
@pytest.mark.parametrize(
  ("changes", "safe"),
  [
    ({}, True),  # without a judge 3 and 1 tie with 1 + 1 + 1 + 1
    ({"judge": 2.0}, False),  # the paper's
    ({"judge": 2.0, "execution": 4.9}, False),
    ({"judge": 2.0, "execution": 6.1}, True),
    ({"schema": 1.5}, False),
    ({"execution": 3.0, "syntax": 0.0, "schema": 0.0, "ngram": 0.0,
      "format": 0.0}, True),
  ],
)  # fmt: skip
def test_weights_that_reward_the_wrong_query_are_refused(changes, safe):
  # The extremes of both sides, from all corners of the parts.
  c = section(**changes)
  weights = {k: c[k] for k in sql_parts.PARTS}
  rest = sum(weights[k] for k in ("judge", "schema", "ngram", "format"))
  assert (rest <= weights["execution"]) == safe
  if safe:
    assert set(reasoning_sql.check(c)) == {k for k, w in weights.items() if w}
    return
  with pytest.raises(errors.UserError, match=r"outranked|wrong query") as said:
    reasoning_sql.check(c)
  assert f"sql.execution={rest:g}" in said.value.fix
  reasoning_sql.check(section(**changes, ranks="watch"))
  reasoning_sql.check(section(**{**changes, "execution": rest}))


@pytest.mark.parametrize(
  ("changes", "word"),
  [({"ranks": "hope"}, "ranks"), ({"syntax": -1.0}, "syntax"),
   ({"ngram": math.inf}, "ngram"),
   (dict.fromkeys(("execution", "syntax", "schema", "ngram", "format"), 0.0),
    "all weights")],
)  # fmt: skip
def test_weights_that_cannot_be(changes, word):
  with pytest.raises(errors.UserError, match=word):
    reasoning_sql.check(section(**changes))


# ------------------------------------------------------------ running
ENDLESS = ("WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x FROM c)"
           " SELECT count(*) FROM c")  # fmt: skip


def test_a_query_that_does_not_end_is_worth_nothing_and_no_exception():
  status, parts, _ = sql_parts.judge(ENDLESS, ENDLESS, BASE, "SELECT a FROM t",
                                     (200_000,))  # fmt: skip
  assert status == "timeout" and not parts
  ask = [[ENDLESS, "SELECT a FROM t"], [BASE] * 2, ["SELECT a FROM t"] * 2]
  late = running.sql_reward(partial=True, steps=200_000, late=0.0)(*ask)
  assert late[0]["value"] == 0 and late[0]["timeout"] == 1
  assert set(late[0]) == set(late[1]) and late[1]["timeout"] == 0
  assert all(late[0][k] == 0 for k in ("execution", "syntax", "format"))
  assert late[1]["execution"] == 1
  # Without a value for it the sample is left out, and counted as a time-out.
  out = running.sql_reward(partial=True, steps=200_000)(*ask)
  assert out[0].status == values.TIMEOUT and out[1]["execution"] == 1
  assert running.sql_reward(steps=200_000, late=0.0)(*ask) == [0.0, 1.0]


def test_a_judgement_is_remembered_and_equal_ones_are_made_once(monkeypatch):
  asked = []

  class Pool:
    def map(self, f, jobs):
      asked.append(len(jobs))
      return [running.Outcome("ok", f(*j)) for j in jobs]

  monkeypatch.setattr(running, "pool", lambda *_: Pool())
  ask = lambda *said: [list(said), [BASE] * len(said),
                       ["SELECT a FROM t"] * len(said)]  # fmt: skip
  plain, kept = running.sql_reward(), running.sql_reward(remember=2)
  for reward in (plain, kept):
    rows = ask("SELECT a FROM t", "SELECT b FROM t", "SELECT a FROM t")
    assert reward(*rows) == [1, 0, 1]
    assert reward(*ask("SELECT a FROM t", "no")) == [1, 0]
  assert asked == [2, 2, 2, 1]
  kept(*ask("SELECT a FROM t"))  # three were too many: all are forgotten
  assert asked[-1] == 1


# ---------------------------------------------------- the cheap stand-in
@pytest.mark.parametrize("match", ["fine", "coarse"])
def test_partial_credit_of_a_query_of_four_slots(match):
  """Measured elsewhere: 0.997 with parts, 0.45 +- 0.18 by exact match alone.

  A query of four slots with 8 values each: `fine` pays each right slot and the
  exact match, as the sum of parts does, `coarse` the exact match.
  """
  bandit = importlib.import_module("test_toolrl_method").bandit
  found = bandit(match, seeds=100 if match == "coarse" else 10)
  want, spread = {"fine": (0.997, 0.003), "coarse": (0.45, 0.18)}[match]
  assert found.mean() == pytest.approx(want, abs=spread)


# ------------------------------------------------------------ the method
def arms():
  return {a.name: a.overrides for a in (*STUDY.arms, FILE["BROKEN"])}


@pytest.mark.parametrize("arm", sorted(arms()))
def test_arms_are_made_and_score_on_the_host(arm):
  c = config_lib.load(f"{SPEC}:mini")
  c = config_lib.replace(c, {**arms()[arm], "prompts_per_step": 4})
  task = registry.task(c)
  method = reasoning_sql.make(c, task)
  state = jax.eval_shape(method.init, jax.random.key(0))
  batch = next(task.batches("train", 4, 0))
  arrays = {k: jnp.asarray(batch[k]) for k in ("prompt", "prompt_mask")}
  rollout = jax.eval_shape(method.phases.sample, state, arrays, state.key)
  blank = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), rollout)
  blank = blank._replace(group=np.repeat(np.arange(4), 8).astype(np.int32))
  score = method.phases.score(blank, batch)
  assert np.asarray(score.value).shape == (32,) and score.valid.all()
  assert float(np.abs(score.value).max()) == 0  # nothing was said
  assert "outranked" in score.components


def test_the_broken_variant_pays_a_wrong_query_as_much_as_a_right_one():
  changes = {k.removeprefix("sql."): v
             for k, v in FILE["BROKEN"].overrides.items()}  # fmt: skip
  weights = reasoning_sql.check(section(**changes))
  wrong = {**WRONG, "schema": 0.2, "ngram": 0.1}
  right = {**RIGHT, "schema": 1.0, "ngram": 1.0, "format": 1.0}
  found = paid([right, wrong], weights)
  assert found.value[0] == found.value[1] == 2
  assert paid([right, wrong], reasoning_sql.check(section())).value[0] == 7


def test_the_claim_needs_the_gap():
  of = lambda reward: {"last/reward": reward}
  said = lambda partial, alone: {"partial": of(partial), "execution": of(alone)}
  assert STUDY.claim(said(0.8, 0.6)) and not STUDY.claim(said(0.8, 0.75))
  assert not STUDY.claim(said(0.3, 0.6))
