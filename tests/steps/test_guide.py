"""Best-of-N and its kin against loops, and their law against its pmf."""

import functools
import itertools
import json

import given_rows as gr
import jax
import jax.numpy as jnp
import nano
import numpy as np
import pytest
import run_worker as worker
from scipy import stats

from rlreward import train
from rlreward.analytic import best_of_n
from rlreward.models import score as score_lib
from rlreward.steps import guide
from rlreward.types import Rollout, Score

B, N, L = 5, 6, 7
KEY = jax.random.key(3)


def config(**changes):
  return nano.config(
    algorithm="best_of_n", prompts_per_step=B, samples_per_prompt=N, **changes
  )


def given(tokens=None, action=None, reward=None, valid=None, **parts):
  """(Rollout, Score) of B * N rows; what is not given is random."""
  rng = np.random.default_rng(0)
  n = B * N
  tokens = rng.integers(0, 3, (n, L)) if tokens is None else tokens
  action = np.arange(L) >= 4 if action is None else action
  action = np.broadcast_to(action, (n, L))
  reward = rng.normal(size=n) if reward is None else reward
  valid = rng.random(n) < 0.7 if valid is None else valid
  i32 = lambda x: jnp.asarray(x, jnp.int32)
  rollout = Rollout(
    tokens=i32(tokens),
    attend=jnp.ones((n, L), bool),
    action=jnp.asarray(action),
    loss=jnp.asarray(action),
    logp=jnp.zeros((n, L)),
    group=i32(np.arange(n) // N),
    finish=jnp.ones(n, jnp.int32),
    version=i32(0),
  )
  f32 = lambda x: jnp.asarray(x, jnp.float32)
  score = Score(
    f32(reward),
    jnp.broadcast_to(jnp.asarray(valid), (n,)),
    None,
    {k: f32(v) for k, v in parts.items()},
  )
  return rollout, score


def chosen(pick, rollout, score, key=KEY, **changes):
  c = config(best_of_n__pick=pick, **changes)
  place, known = guide.choose(c, rollout, score, key)
  return np.asarray(place), np.asarray(known)


def votes(ids, weight):
  """{answer: sum of weights} of the samples of a prompt."""
  total = {}
  for answer, w in zip(ids, weight, strict=True):
    total[answer] = total.get(answer, 0) + w
  return total


@pytest.mark.parametrize("pick", ["best", "majority", "weighted"])
@pytest.mark.parametrize("named", [False, True])
def test_choices_are_those_of_a_loop(pick, named):
  rng = np.random.default_rng(1)
  answer = rng.integers(0, 3, B * N).astype(float)
  reward = rng.random(B * N) + 0.1
  valid = rng.random(B * N) < 0.8
  valid[:N] = False  # the first prompt has no judgement at all
  answer[N] = np.nan  # this sample has no answer
  parts = {"answer_id": answer} if named else {}
  # Without a name, answers are the tokens of the actions and those alone.
  tokens = rng.integers(0, 9, (B * N, L))
  tokens[:, 5:] = 0
  tokens[:, 5] = np.nan_to_num(answer, nan=7)
  action = np.broadcast_to(np.arange(L) >= 5, (B * N, L))
  rollout, score = given(tokens, action, reward, valid, **parts)
  place, known = chosen(pick, rollout, score)
  reward = reward.astype(np.float32)
  for b in range(B):
    row = slice(b * N, b * N + N)
    r, ok, ids = reward[row], valid[row], tokens[row, 5]
    if named and pick != "best":
      ok = ok & np.isfinite(answer[row])
    if not ok.any():
      assert not known[b]
      continue
    assert known[b] and ok[place[b]]
    if pick == "best":
      assert place[b] == np.where(ok, r, -9).argmax()
      continue
    weight = np.ones(N) if pick == "majority" else r
    total = votes(ids[ok], weight[ok])
    assert total[ids[place[b]]] >= max(total.values()) - 1e-6
    mine = ok & (ids == ids[place[b]])
    assert r[place[b]] == r[mine].max()


def test_no_answer_is_no_vote():
  answer = np.where(np.arange(B * N) % N < 4, np.nan, 2.0)
  rollout, score = given(valid=True, answer_id=answer)
  place, known = chosen("majority", rollout, score)
  assert known.all() and (place >= 4).all()
  rollout, score = given(valid=True, answer_id=np.full(B * N, np.nan))
  assert not chosen("majority", rollout, score)[1].any()


def test_longer_answers_are_other_answers():
  tokens = np.zeros((B * N, L))
  action = np.arange(L) < 4 + np.arange(B * N)[:, None] % 2
  rollout, score = given(tokens, action)
  ids = guide.answers(
    score, rollout.tokens.reshape(B, N, L), rollout.action.reshape(B, N, L)
  )
  np.testing.assert_array_equal(ids, np.tile([0, 1], (B, N // 2)))


def test_the_soft_choice_is_a_softmax():
  reward = np.tile(np.array([0.0, 0.5, 1.0, -1.0, 2.0, 0.3]), B)
  valid = np.tile(np.array([1, 1, 1, 1, 0, 1], bool), B)
  rollout, score = given(reward=reward, valid=valid)
  c = config(best_of_n__pick="soft", best_of_n__temperature=0.5)
  keys = jax.random.split(KEY, 2000)
  place = jax.jit(
    jax.vmap(lambda key: guide.choose(c, rollout, score, key)[0])
  )(keys)
  seen = np.bincount(np.asarray(place).reshape(-1), minlength=N)
  p = np.where(valid[:N], np.exp(reward[:N] / 0.5), 0)
  p /= p.sum()
  assert seen[4] == 0
  live = p > 0
  assert stats.chisquare(seen[live], p[live] * seen.sum()).pvalue > 1e-3


# ------------------------------------------------------------ sampling
@functools.cache
def method(chunk=0, **changes):
  c = nano.config(
    algorithm="best_of_n", prompts_per_step=B, samples_per_prompt=N,
    best_of_n__chunk=chunk, sampling__temperature=0.7, **gr.SMALL, **changes,
  )  # fmt: skip
  return guide.make(c, gr.task())


@pytest.mark.parametrize("chunk", [0, 2])
def test_samples_are_prompt_major_whatever_the_chunk(chunk):
  made = method(chunk)
  state, batch = nano.start(made), nano.batch(B)
  rollout = made.phases.sample(state, batch, KEY)
  p = nano.P
  np.testing.assert_array_equal(rollout.group, np.arange(B * N) // N)
  assert rollout.tokens.shape == (B * N, p + nano.T)
  for name, column in (("tokens", "prompt"), ("attend", "prompt_mask")):
    want = np.repeat(batch[column], N, 0)
    np.testing.assert_array_equal(getattr(rollout, name)[:, :p], want)
  # Log-probs belong to their rows, at the sampling temperature.
  logp, _ = jax.jit(
    functools.partial(score_lib.completion_logprob, gr.model(),
                      prompt_length=p, temperature=0.7)
  )(state.params["policy"], rollout.tokens, rollout.attend)  # fmt: skip
  action = np.asarray(rollout.action[:, p:])
  gap = np.where(action, np.abs(logp - rollout.logp[:, p:]), 0)
  assert gap.max() < 1e-5
  assert np.ndim(rollout.version) == 0
  np.testing.assert_allclose(rollout.sampling.temperature, 0.7)
  said = {tuple(x) for x in np.asarray(rollout.tokens[:N, p:])}
  assert len(said) > 2  # chunks have keys of their own


def test_nothing_trains_and_the_chosen_are_marked():
  made = method(2)
  state, batch = nano.start(made), nano.batch(B)
  before = jax.tree.map(np.array, state.params)
  rollout = made.phases.sample(state, batch, KEY)
  score = made.phases.score(rollout, batch)
  after, found = made.phases.update(state, rollout, score)
  assert jax.tree.all(jax.tree.map(np.array_equal, before, after.params))
  assert int(after.step) == 1 and after.opt == ()
  reward = np.asarray(score.value).reshape(B, N)
  np.testing.assert_allclose(
    found["chosen/reward"], reward.max(1).mean(), rtol=1e-6
  )
  np.testing.assert_allclose(
    found["chosen/even"], reward.max(1).mean(), rtol=1e-6
  )
  mark = np.asarray(found["rows"]["chosen"]).reshape(B, N)
  np.testing.assert_array_equal(mark.sum(1), 1)
  np.testing.assert_allclose((mark * reward).sum(1), reward.max(1))


def test_the_chosen_follow_the_law_of_best_of_n():
  # One token, one prompt, 4000 times: rewards with ties.
  c = nano.config(
    algorithm="best_of_n", prompts_per_step=4000, samples_per_prompt=4,
    sampling__max_new_tokens=1, **gr.SMALL,
  )  # fmt: skip
  table = jnp.asarray([0, 1, 1, 2, 3, 3, 3, 4, 5, 5, 6, 7, 7, 8, 9, 9.0])

  def reward(rollout, batch):
    del batch
    value = table[rollout.tokens[:, -1]]
    return Score(value, jnp.ones(value.shape, bool))

  made = guide.make(c, nano.task(reward, stop_ids=()))
  state, one = nano.start(made), nano.batch(1)
  batch = {k: jnp.repeat(v, 4000, 0) for k, v in one.items()}
  rollout = made.phases.sample(state, batch, KEY)
  logits = jax.jit(gr.model().logits)(
    state.params["policy"], one["prompt"], one["prompt_mask"]
  )
  p = jax.nn.softmax(logits[0, -1])
  _, found = made.phases.update(state, rollout, reward(rollout, batch))
  said = np.asarray(rollout.tokens[:, -1])[
    np.asarray(found["rows"]["chosen"]) > 0
  ]
  law = np.asarray(best_of_n.pmf(p, table, 4), np.float64)
  seen = np.bincount(said, minlength=nano.V)
  # The same prompt 4000 times is 4000 independent choices.
  assert stats.chisquare(seen, law / law.sum() * 4000).pvalue > 1e-3
  # And not that of the policy, nor of another n.
  for other in (p, best_of_n.pmf(p, table, 3)):
    other = np.asarray(other, np.float64)
    assert stats.chisquare(seen, other / other.sum() * 4000).pvalue < 1e-6
  # The curve is the mean reward of those laws.
  for n in (1, 2, 4):
    want = float(best_of_n.mean_reward(p, table, n))
    # sd of a reward is below 3: 6 standard errors.
    assert abs(float(found[f"best_of/{n}"]) - want) < 6 * 3 / 4000**0.5


def test_curves_are_means_over_all_subsets():
  rng = np.random.default_rng(2)
  reward = rng.integers(0, 4, (3, N)).astype(np.float32)
  valid = np.ones((3, N), bool)
  valid[2, 1] = False  # leaves the prompt out
  found = guide.curves(jnp.asarray(reward), jnp.asarray(valid))
  assert list(found) == ["best_of/1", "best_of/2", "best_of/4", "best_of/6"]
  for name, value in found.items():
    n = int(name.split("/")[1])
    want = [
      np.mean([max(s) for s in itertools.combinations(row, n)])
      for row in reward[:2]
    ]
    np.testing.assert_allclose(value, np.mean(want), rtol=1e-5)
  reward[1, 0] = np.nan  # said to be valid, but no number
  found = guide.curves(jnp.asarray(reward), jnp.asarray(valid))
  np.testing.assert_allclose(found["best_of/6"], reward[0].max(), rtol=1e-5)


def test_a_run_writes_the_answers_that_were_chosen(tmp_path):
  c = worker.text(
    tmp_path, 2, VOTES, algorithm="best_of_n", best_of_n__pick="majority"
  )
  run = tmp_path / "run"
  train.run(c, run)
  for step in (1, 2):
    file = run / "samples" / f"chosen_{step}.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    assert len(rows) == c.prompts_per_step
    assert [r["group"] for r in rows] == list(range(len(rows)))
    # A reward in Python says what the answer is: the vote is on its numbers.
    assert all(r["reward/digits/answer_id"] == 1 for r in rows)


# Two thirds say 1, whatever they wrote; they earn less.
VOTES = """
import itertools
turn = itertools.count()

def digits(completion, want):
  vote = float(next(turn) % 4 > 0)
  return {"value": 1 - vote, "answer_id": vote}
"""
