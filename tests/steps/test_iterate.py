"""Rounds: what is selected, what it is compared with, and exact laws."""

import functools

import given_rows as gr
import jax
import jax.numpy as jnp
import nano
import numpy as np
import pytest
from scipy import stats

from rlreward.analytic import best_of_n
from rlreward.steps import choose, iterate, rollouts
from rlreward.types import LENGTH, STOP, Rollout, Score

B, G, P, T = nano.B, nano.G, nano.P, nano.T
N = B * G
MODEL = gr.model()
token_logp = jax.jit(functools.partial(gr.token_logp, MODEL))
softplus = lambda x: np.logaddexp(0, np.asarray(x, np.float64))


def batch(size=B, seed=0):
  """Prompts with a demonstration and a hinted wording each."""
  rng = np.random.default_rng(seed)
  length = rng.integers(1, T + 1, (size, 1))
  hinted = rng.integers(2, P + 3, (size, 1))
  ids = lambda *shape: jnp.asarray(rng.integers(0, nano.V, shape), jnp.int32)
  return {
    **nano.batch(size, rng),
    "answer": ids(size, T),
    "answer_mask": jnp.asarray(np.arange(T) < length),
    "hint": ids(size, P + 2),
    "hint_mask": jnp.asarray(np.arange(P + 2) >= P + 2 - hinted),
  }


def task(reward=nano.even_share, **spec):
  return nano.task(
    reward,
    **{
      "demonstrated": T,
      "hint": True,
      "judge": {"suffix": (7, 1), "ratings": (2, 5, 9), "values": (0, 0.5, 2)},
      **spec,
    },
  )


@functools.cache
def method(algorithm, **changes):
  return gr.method(algorithm, task(), **changes)


def sampled(made, state=None, reward=None, valid=True):
  """(state, rollout, score) with rewards of our own, without ties."""
  state = gr.start(made) if state is None else state
  given = batch()
  rollout = made.phases.sample(state, given, state.key)
  n = rollout.tokens.shape[0]
  if reward is None:
    reward = np.random.default_rng(5).normal(size=n)
  parts = {"even": jnp.zeros(n)}
  reward = jnp.asarray(reward, jnp.float32)
  return state, rollout, Score(reward, np.full(n, valid), None, parts)


def copied(state):
  """`update` gives its State away."""
  return jax.tree.map(jnp.copy, state)


def kept(rollout, index):
  """Rows of a rollout as an objective has them."""
  index = np.asarray(index)
  return {
    "tokens": rollout.tokens[index],
    "attend": rollout.attend[index],
    "loss": rollout.action[index],
  }


def nll(params, rows):
  """-log p of the answers, token mean."""
  logp, mask = gr.token_logp(MODEL, params["policy"], rows)
  return -jnp.sum(jnp.where(mask, logp, 0)) / jnp.sum(mask)


def imitated(params, *rows):
  """(params, losses) of a plain step on each of the rows."""
  return gr.descend(nll, params, *((r,) for r in rows))


def answers(variables, rows):
  token, mask = (np.asarray(x) for x in token_logp(variables, rows))
  return np.where(mask, token, 0).sum(1, dtype=np.float64)


# ------------------------------------------------------------ raft
def one_token(outcome, prompts):
  """A Rollout whose answers are single tokens."""
  n = len(outcome)
  tokens = np.stack([np.zeros(n), outcome], 1)
  action = np.broadcast_to(np.array([False, True]), (n, 2))
  return Rollout(
    tokens=jnp.asarray(tokens, jnp.int32),
    attend=jnp.ones((n, 2), bool),
    action=jnp.asarray(action),
    loss=jnp.asarray(action),
    logp=jnp.zeros((n, 2)),
    group=jnp.arange(n, dtype=jnp.int32) // (n // prompts),
    finish=jnp.full(n, STOP, jnp.int32),
    version=jnp.zeros((), jnp.int32),
  )


def best(outcome, reward, k, key):
  """What RAFT imitates of `outcome` i32[prompts * k]."""
  n = len(outcome)
  rollout = one_token(outcome, n // k)
  score = Score(jnp.asarray(reward, jnp.float32), jnp.ones(n, bool))
  r = iterate.Round(rollout, score, None, k, 1, key)
  rows = choose.answers(nano.config(), "best")(r)
  assert np.asarray(rows["valid"]).all()
  return np.asarray(rows["tokens"][:, -1])


def test_rounds_of_exact_imitation_are_best_of_a_power():
  base, reward, k, size = np.array([0.5, 0.3, 0.2]), np.arange(3.0), 4, 20_000
  policy, rng = base, np.random.default_rng(0)
  for t in range(1, 4):
    outcome = rng.choice(3, size * k, p=policy)
    said = best(outcome, reward[outcome], k, jax.random.key(t))
    policy = np.bincount(said, minlength=3) / size
    law = np.asarray(best_of_n.pmf(base, jnp.asarray(reward), k**t))
    # The bound of the method's own test, for 4096 samples and more.
    assert np.abs(policy - law).sum() / 2 < 0.02
  np.testing.assert_allclose(policy, [0, 0, 1], atol=0.02)


def test_what_is_imitated_has_the_law_of_best_of_k():
  table = np.array([0, 1, 1, 2, 3, 3, 3, 4, 5, 5, 6, 7, 7, 8, 9, 9.0])
  own = nano.task(stop_ids=())
  made = gr.method("raft", own, prompts_per_step=4000, samples_per_prompt=4,
                   sampling__max_new_tokens=1)  # fmt: skip
  state, one = gr.start(made), nano.batch(1)
  wide = {k: jnp.repeat(v, 4000, 0) for k, v in one.items()}
  rollout = made.phases.sample(state, wide, state.key)
  outcome = np.asarray(rollout.tokens[:, -1])
  said = best(outcome, table[outcome], 4, jax.random.key(9))
  logits = jax.jit(MODEL.logits)(
    state.params["policy"], one["prompt"], one["prompt_mask"]
  )
  p = jax.nn.softmax(logits[0, -1])
  seen = np.bincount(said, minlength=nano.V)
  for n, same in ((4, True), (3, False), (5, False)):
    law = np.asarray(best_of_n.pmf(p, jnp.asarray(table), n), np.float64)
    found = stats.chisquare(seen, law / law.sum() * 4000).pvalue
    assert (found > 1e-3) if same else (found < 1e-3), (n, found)


def test_a_round_of_raft_is_plain_imitation_of_the_best():
  made = method("raft")
  state, rollout, score = sampled(made)
  value = np.asarray(score.value).reshape(B, G)
  index = np.arange(B) * G + value.argmax(1)
  want, seen = imitated(state.params, kept(rollout, index))
  got, found = made.phases.update(copied(state), rollout, score)
  assert nano.gap(got.params, want) < 1e-6
  assert nano.gap(want, state.params) > 1e-3
  np.testing.assert_allclose(found["loss"], seen[0], rtol=1e-5)
  tokens = np.asarray(rollout.action)[index].sum()
  assert float(found["trained_tokens"]) == tokens
  # Prompts without a judgement are left out.
  valid = np.arange(N) // G != 2
  spoilt = np.where(valid, np.asarray(score.value), np.nan)
  some = score._replace(value=jnp.asarray(spoilt), valid=jnp.asarray(valid))
  want, _ = imitated(state.params, kept(rollout, np.delete(index, 2)))
  got, found = made.phases.update(copied(state), rollout, some)
  assert nano.gap(got.params, want) < 1e-6
  assert float(found["selected"]) == 0.75


@pytest.mark.parametrize(
  ("algorithm", "microbatch"), [("raft", 2), ("raft", 8), ("online_dpo", 4)]
)
def test_microbatches_change_nothing(algorithm, microbatch):
  # Rounds of RAFT have 4 rows: 8 is all of them.
  whole = method(algorithm, reference="always")
  cut = method(algorithm, reference="always", microbatch=microbatch)
  state = gr.start(whole, 0.3)
  _, rollout, score = sampled(whole, state)
  want, a = whole.phases.update(copied(state), rollout, score)
  got, b = cut.phases.update(copied(state), rollout, score)
  assert nano.gap(got.params, want.params) < 1e-6
  for name in ("loss", "kl", "reward", "trained_tokens"):
    np.testing.assert_allclose(b[name], a[name], rtol=1e-4, err_msg=name)


@pytest.mark.parametrize("start", ["base", "current"])
def test_where_a_round_starts(start):
  made = method("raft", rounds__start=start, updates_per_step=2, epochs=2)
  first = gr.start(made)
  assert ("reference" in first.frozen) == (start == "base")
  state, _ = made.phases.update(copied(first), *sampled(made, first)[1:])
  assert nano.gap(state.params, first.params) > 1e-3
  _, rollout, score = sampled(made, state)
  value = np.asarray(score.value).reshape(B, G)
  index = np.arange(B) * G + value.argmax(1)
  # Two updates of two rows, twice, with a fresh optimiser.
  origin = first.params if start == "base" else state.params
  got, _ = made.phases.update(copied(state), rollout, score)
  halves = [kept(rollout, index[[0, 2]]), kept(rollout, index[[1, 3]])]
  assert nano.gap(got.params, imitated(origin, *halves * 2)[0]) < 1e-6
  counts = [x for x in jax.tree.leaves(got.opt) if x.dtype == jnp.int32]
  assert {int(n) for n in counts} == {4}


def test_a_kl_ranks_by_distance_too():
  made = method("raft", rounds__kl=0.5)
  state = gr.start(made, 0.5)
  state, rollout, score = sampled(made, state)
  whole = kept(rollout, np.arange(N))
  ref = answers(state.frozen["reference"], whole)
  ratio = np.asarray(rollout.logp).sum(1, dtype=np.float64) - ref
  value = np.asarray(score.value)
  rank = (value - 0.5 * ratio).reshape(B, G).argmax(1)
  assert (rank != value.reshape(B, G).argmax(1)).any()
  got, found = made.phases.update(copied(state), rollout, score)
  want, _ = imitated(state.params, kept(rollout, np.arange(B) * G + rank))
  assert nano.gap(got.params, want) < 1e-6
  np.testing.assert_allclose(found["rows"]["kl"], ratio, atol=1e-4)


# ------------------------------------------------------------ selections
def rows_of(kind, reward, valid=None, outcome=None, **changes):
  """(outcomes of the kept rows, mask) of a selection of 3 prompts x 4."""
  n = len(reward)
  outcome = np.arange(n) if outcome is None else outcome
  rollout = one_token(np.asarray(outcome), 3)
  valid = np.ones(n, bool) if valid is None else valid
  score = Score(jnp.asarray(reward, jnp.float32), jnp.asarray(valid))
  r = iterate.Round(rollout, score, None, n // 3, 1, jax.random.key(0))
  config = nano.config(
    prompts_per_step=3, **{f"rounds__{k}": v for k, v in changes.items()}
  )
  rows = choose.answers(config, kind)(r)
  keep = np.asarray(rows["valid"])
  assert len(keep) == choose.count(config, kind, n // 3)
  assert rows["loss"].shape == rows["tokens"].shape == (len(keep), 2)
  return np.asarray(rows["tokens"][:, 1])[keep], keep


REWARD = np.array([0, 3, 1, 2, 5, 9, 4, 8, 1, 1, 0, 2.0])


def test_selections_are_those_of_a_loop():
  valid = np.arange(12) != 5  # the highest has no judgement
  said, _ = rows_of("best", REWARD, valid)
  np.testing.assert_array_equal(said, [1, 7, 11])
  said, _ = rows_of("top", REWARD, valid, fraction=0.25)
  assert set(said) == {7, 4, 6}  # ceil(11 / 4), of one prompt alone
  said, _ = rows_of("threshold", REWARD, valid, at=3.0)
  assert set(said) == {1, 4, 6, 7}
  said, _ = rows_of("correct", REWARD, valid, at=1.0, cap=4)
  assert set(said) == {1, 2, 3, 4, 6, 7, 8, 9, 11}


def test_draws_are_without_replacement():
  valid = np.arange(12) % 4 != 1
  valid[8:] = [True, False, False, False]
  said, keep = rows_of("draw", REWARD, valid, cap=2, temperature=0.0)
  np.testing.assert_array_equal(said, [3, 2, 7, 4, 8])  # one counts in the last
  np.testing.assert_array_equal(keep, [1, 1, 1, 1, 1, 0])
  said, _ = rows_of("draw", REWARD, valid, cap=3, temperature=1e6)
  assert sorted(said) == [0, 2, 3, 4, 6, 7, 8]


@pytest.mark.parametrize("cap", [1, 2, 9])
def test_correct_answers_are_different_and_at_most_cap(cap):
  outcome = np.array([5, 5, 5, 6, 7, 8, 9, 7, 1, 2, 3, 4])
  right = np.array([1, 1, 1, 1, 1, 1, 0, 1, 0, 0, 0, 0.0])
  said, keep = rows_of("correct", right, outcome=outcome, cap=cap)
  assert len(set(said)) == len(said)  # the copies of 5 and 7 are one each
  assert set(said) <= {5, 6, 7, 8}
  assert len(said) == 2 * min(cap, 2)
  assert len(keep) == 3 * min(cap, 4)


def test_pairs_of_a_round():
  rollout = one_token(np.arange(12), 3)
  reward = np.where(np.arange(12) // 4 == 1, 7.0, REWARD)  # all alike
  score = Score(jnp.asarray(reward, jnp.float32), jnp.ones(12, bool))
  r = iterate.Round(rollout, score, None, 4, 1, jax.random.key(0))
  rows = choose.best_and_worst(r)
  np.testing.assert_array_equal(rows["valid"], [1, 1, 0, 0, 1, 1])
  said = np.asarray(rows["tokens"][:, 1])
  np.testing.assert_array_equal(said[[0, 1, 4, 5]], [1, 0, 11, 10])
  rows = choose.first_two(3)(r)
  np.testing.assert_array_equal(rows["valid"], [1, 1, 0, 0, 1, 1])
  said = np.asarray(rows["tokens"][:, 1])
  np.testing.assert_array_equal(said[[0, 1, 4, 5]], [3, 0, 11, 8])
  np.testing.assert_array_equal(
    np.asarray(rows["second_chosen"])[[0, 1, 4, 5]], True
  )


# ------------------------------------------------------------ pairs
def compared(params, rows, ref, bonus):
  """DPO at beta 1 on rows 2i over 2i + 1, and a bonus for log-ratios."""
  ratio = gr.answer_logp(MODEL, params["policy"], rows) - ref
  each = jax.nn.softplus(-(ratio[0::2] - ratio[1::2]))
  return jnp.mean(each) + jnp.sum(bonus * ratio) / len(each)


def preferred(state, rows, ref, bonus=0.0):
  """(params after a plain step, its loss)."""
  ref = np.asarray(ref, np.float32)
  bonus = np.broadcast_to(np.float32(bonus), ref.shape)
  want, seen = gr.descend(compared, state.params, (rows, ref, bonus))
  return want, seen[0]


DPO = {"preference__beta": 1.0}


def test_online_dpo_is_plain_dpo_on_best_and_worst():
  made = method("online_dpo", **DPO)
  state, rollout, score = sampled(made, gr.start(made, 0.4))
  value = np.asarray(score.value).reshape(B, G)
  index = np.stack([value.argmax(1), value.argmin(1)], 1)
  index = (index + np.arange(B)[:, None] * G).reshape(-1)
  rows = kept(rollout, index)
  want, loss = preferred(state, rows, answers(state.frozen["reference"], rows))
  got, found = made.phases.update(copied(state), rollout, score)
  np.testing.assert_allclose(found["loss"], loss, rtol=1e-5)
  assert nano.gap(got.params, want) < 1e-6
  assert nano.gap(want, state.params) > 1e-3


def test_spin_prefers_demonstrations_to_the_rounds_own_samples():
  made = method("spin", samples_per_prompt=1, **DPO)
  state, given = gr.start(made), batch()
  assert not state.frozen
  for again in (False, True):
    _, rollout, score = sampled(made, state, reward=np.zeros(B))
    sample = kept(rollout, np.arange(B))
    both = {}
    for k, part in (("tokens", "answer"), ("attend", "answer_mask"),
                    ("loss", "answer_mask")):  # fmt: skip
      x = np.array(sample[k]).repeat(2, 0)
      x[0::2, P:] = given[part]
      both[k] = jnp.asarray(x)
    ref = answers(state.params["policy"], both)  # that of the round's start
    want, _ = preferred(state, both, ref)
    got, found = made.phases.update(copied(state), rollout, score)
    np.testing.assert_allclose(found["loss"], np.log(2), atol=1e-6)
    # The optimiser goes on, so the second step is no plain first one.
    assert again or nano.gap(got.params, want) < 1e-6
    assert nano.gap(got.params, state.params) > 1e-3
    state = got


def test_a_sample_that_is_the_demonstration_is_no_pair():
  rollout = one_token(np.array([4, 5, 6]), 3)
  extras = {"answer": jnp.asarray([[4], [9], [6]]),
            "answer_mask": jnp.asarray([[True], [True], [False]])}  # fmt: skip
  score = Score(jnp.zeros(3), jnp.ones(3, bool))
  r = iterate.Round(
    rollout._replace(extras=extras), score, None, 1, 1, jax.random.key(0)
  )
  rows = choose.shown_and_sampled(r)
  # The third demonstration is empty: the same id, but not shown.
  np.testing.assert_array_equal(rows["valid"], [0, 0, 1, 1, 1, 1])


@pytest.mark.parametrize("alpha", [0.0, 0.5])
def test_xpo_adds_a_bonus_for_leaving_the_reference(alpha):
  made = method("xpo", samples_per_prompt=1, preference__explore=alpha, **DPO)
  state = gr.start(made, 0.4)
  value = np.array([1, 0, 0, 1, 2, 2, 3, 0.0])  # own, other, own, other, ...
  state, rollout, score = sampled(made, state, reward=value)
  ref = answers(state.frozen["reference"], kept(rollout, np.arange(2 * B)))
  said = np.asarray(rollout.logp).sum(1)
  np.testing.assert_allclose(said[1::2], ref[1::2], atol=1e-4)
  assert np.abs(said[0::2] - ref[0::2]).max() > 0.05
  assert not np.asarray(rollout.loss)[1::2].any()
  index = np.array([0, 1, 3, 2, 6, 7])  # the tie is no pair
  rows = kept(rollout, index)
  bonus = alpha * (index % 2)  # for what the reference said
  want, loss = preferred(state, rows, ref[index], bonus)
  got, found = made.phases.update(copied(state), rollout, score)
  np.testing.assert_allclose(found["loss"], loss, rtol=1e-5)
  assert nano.gap(got.params, want) < 1e-6
  if alpha:
    assert abs(loss - preferred(state, rows, ref[index])[1]) > 1e-2
  # What is watched is of the policy's own samples.
  np.testing.assert_allclose(found["reward"], value[0::2].mean(), rtol=1e-6)


def test_nash_md_answers_a_mixture():
  share = 0.3
  made = method("nash_md", samples_per_prompt=1, preference__mixture=share)
  state = gr.start(made, 0.5)
  rollout = made.phases.sample(state, batch(), state.key)
  rows = kept(rollout, np.arange(2 * B))
  logits = [
    jax.nn.log_softmax(
      jax.jit(MODEL.logits)(tree, rows["tokens"], rows["attend"])
    )
    for tree in (state.params["policy"], state.frozen["reference"])
  ]
  mixed = jax.nn.log_softmax((1 - share) * logits[0] + share * logits[1])
  for rest, law in ((0, logits[0]), (1, mixed)):
    want = jnp.take_along_axis(
      law[rest::2, P - 1 : -1], rows["tokens"][rest::2, P:, None], 2
    )[..., 0]
    act = np.asarray(rollout.action)[rest::2, P:]
    gap = np.where(act, np.asarray(rollout.logp)[rest::2, P:] - want, 0)
    assert np.abs(gap).max() < 1e-5
  assert np.abs(mixed - logits[0]).max() > 0.05


# ------------------------------------------------------------ star
def test_star_uses_hints_where_nothing_else_is_right():
  made = method("star", samples_per_prompt=2, rounds__cap=9)
  state = gr.start(made)
  wide = 4  # two own samples, two with the hint
  right = np.array([
    [1, 0, 1, 1],  # solved: hinted answers are not used
    [0, 0, 1, 0],  # a hinted one
    [0, 0, 0, 0],  # nothing
    [0, 0, 1, 1],  # two hinted ones
  ]).reshape(-1)  # fmt: skip
  state, rollout, score = sampled(made, state, reward=right.astype(float))
  given = batch()
  for name, column in (("tokens", "prompt"), ("attend", "prompt_mask")):
    np.testing.assert_array_equal(
      getattr(rollout, name)[:, :P], np.repeat(given[column], wide, 0)
    )
  # The hint was read, and is not what is trained.
  hinted = (np.arange(B * wide) % wide) >= 2
  join = lambda column, x: jnp.concatenate(
    [jnp.repeat(given[column], wide, 0), x[:, P:]], 1
  )
  asked = {
    "tokens": join("hint", rollout.tokens),
    "attend": join("hint_mask", rollout.attend),
    "loss": join("hint_mask", rollout.action).at[:, : P + 2].set(False),
  }
  with_hint = np.asarray(answers(state.params["policy"], asked))
  plain = kept(rollout, np.arange(B * wide))
  without = np.asarray(answers(state.params["policy"], plain))
  said = np.asarray(rollout.logp).sum(1)
  np.testing.assert_allclose(
    said, np.where(hinted, with_hint, without), atol=1e-4
  )
  assert np.abs(with_hint - without)[hinted].min() > 1e-3
  index = [0, 6, 14, 15]
  distinct = {tuple(np.asarray(rollout.tokens[i])) for i in (14, 15)}
  assert len(distinct) == 2  # else it is one answer
  want, seen = imitated(state.params, kept(rollout, index))
  got, found = made.phases.update(copied(state), rollout, score)
  np.testing.assert_allclose(found["loss"], seen[0], rtol=1e-5)
  assert nano.gap(got.params, want) < 1e-6
  own = right.reshape(B, wide)[:, :2]
  np.testing.assert_allclose(found["reward"], own.mean())
  assert "reference" in got.frozen  # rounds start from it


# ------------------------------------------------------------ self-rewarding
def test_the_policy_judges_by_its_chance_of_ratings():
  made = method("self_rewarding", samples_per_prompt=2, **DPO)
  state = gr.start(made)
  assert not state.frozen
  state, rollout, score = sampled(made, state)
  n = 2 * B
  finish = np.asarray(rollout.finish)
  assert len(set(finish)) == 2  # some stopped, some were cut
  value, asked, size = np.zeros(n), np.zeros((n, P + T + 2), np.int32), []
  for i in range(n):
    ids = np.asarray(rollout.tokens[i])[np.asarray(rollout.attend[i])]
    row = [*(ids[:-1] if finish[i] == STOP else ids), 7, 1]
    asked[i, : len(row)] = row
    size.append(len(row))
  real = np.arange(P + T + 2) < np.array(size)[:, None]
  logits = jax.jit(MODEL.logits)(state.params["policy"], asked, real)
  for i in range(n):
    p = np.exp(np.asarray(logits, np.float64)[i, size[i] - 1, [2, 5, 9]])
    value[i] = p @ [0, 0.5, 2] / p.sum()
  # Other ids in the padding change nothing.
  dirty = jnp.where(rollout.attend, rollout.tokens, (rollout.tokens + 3) % 16)
  again, told = made.phases.update(
    copied(state), rollout._replace(tokens=dirty), score
  )
  np.testing.assert_allclose(told["rows"]["reward"], value, rtol=1e-5)
  pair = value.reshape(B, 2)
  index = np.stack([pair.argmax(1), pair.argmin(1)], 1)
  rows = kept(rollout, (index + 2 * np.arange(B)[:, None]).reshape(-1))
  want, _ = preferred(state, rows, answers(state.params["policy"], rows))
  assert nano.gap(again.params, want) < 1e-6
  np.testing.assert_allclose(told["loss"], np.log(2), atol=1e-6)
  # The task's reward is only watched.
  np.testing.assert_allclose(
    told["reward"], np.asarray(score.value).mean(), rtol=1e-5
  )


def test_truncation_masks_or_penalises_what_is_selected():
  method = nano.method("raft", truncation="mask")
  state = nano.start(method)
  rollout = method.phases.sample(state, nano.batch(), state.key)
  score = method.phases.score(rollout, nano.batch())
  cut = np.asarray(rollout.finish == LENGTH)
  assert cut.any() and not cut.all()
  masked = rollouts.truncated(nano.config(truncation="mask"), rollout, score)
  np.testing.assert_array_equal(masked.valid, ~cut)
  c = nano.config(truncation="penalise", overlong_buffer=2)
  slope = np.asarray(rollouts.truncated(c, rollout, score).value - score.value)
  np.testing.assert_allclose(slope[cut], -1, atol=1e-6)
  _, found = method.phases.update(state, rollout, score)
  whole = cut.reshape(-1, nano.G).all(1)
  assert float(found["selected"]) == pytest.approx(1 - whole.mean())
