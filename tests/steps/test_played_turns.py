"""Steps of answers in turns: what is trained on, whose tool, whose credit."""

import functools

import jax
import jax.numpy as jnp
import nano
import numpy as np
import pytest

from rlreward import errors, registry
from rlreward.ops import advantage
from rlreward.sampling import tools
from rlreward.steps import credit, judge, refill, turn_credit, turns

B, G, P = nano.B, nano.G, nano.P
T = 9
STOPS = tuple(range(0, nano.V, 2))  # so that nano's policy ends many turns


def observe(query, mask, columns):
  """Shows the size of the turn and the prompt's fact; every turn is a call."""
  xp = np if isinstance(query, np.ndarray) else jnp
  size = mask.sum(1)
  fact = xp.asarray(columns["fact"])
  seen = xp.stack([xp.minimum(size, 9), fact], 1).astype(xp.int32)
  keep = xp.arange(2)[None] < xp.where(size % 2, 1, 2)[:, None]
  return seen, keep, mask[:, 0]


DEVICE = tools.Tool(observe, 2, 2, ("fact",))
HOST = DEVICE._replace(on_device=False)


def batch(size=B):
  fact = jnp.arange(size, dtype=jnp.int32) + 10
  return {**nano.batch(size), "fact": fact}


def task(tool):
  return nano.task(tool=tool, stop_ids=STOPS)._replace(
    batches=lambda split, size, seed: Source(size)
  )


class Source:
  """Batches with a fact for each prompt."""

  def __init__(self, size):
    self.size = size

  def __next__(self):
    return jax.tree.map(np.asarray, batch(self.size))

  def get_state(self):
    return {}


@functools.cache
def method(tool=DEVICE, algorithm="grpo", **changes):
  c = nano.config(sampling__max_new_tokens=T, **changes)
  return registry.algorithm(algorithm).make(c, task(tool))


def rolled(tool=DEVICE, algorithm="grpo", **changes):
  made = method(tool, algorithm, **changes)
  also = turns.also(task(tool), jax.tree.map(np.asarray, batch()))
  state = nano.start(made)
  return made, state, made.phases.sample(state, batch(), state.key, *also)


def scored(rollout, seed=0):
  value = np.random.default_rng(seed).normal(size=rollout.group.shape[0])
  score = nano.even_share(rollout, {})
  return score._replace(value=jnp.asarray(value, jnp.float32))


def moved(made, rollout):
  """Parameters after an update with rewards that do not read the tokens."""
  state, found = made.phases.update(nano.start(made), rollout, scored(rollout))
  assert np.isfinite(float(found["grad_norm"])) and found["grad_norm"] > 0
  return state.params, found


def same(a, b):
  equal = jax.tree.map(lambda x, y: bool(jnp.all(x == y)), a, b)
  return jax.tree.all(equal)


def seen_of(rollout):
  seen = np.array(rollout.attend & ~rollout.action)
  seen[:, :P] = False
  assert seen.any()
  return seen


def test_rows_see_the_facts_of_their_own_prompt():
  _, _, rollout = rolled()
  seen = seen_of(rollout)
  facts = np.asarray(rollout.tokens)[seen]
  rows = np.nonzero(seen)[0]
  large = facts >= 10
  assert large.any()
  np.testing.assert_array_equal(facts[large], 10 + rows[large] // G)
  assert set(np.asarray(rollout.extras["calls"]).tolist()) > {0.0}


@pytest.mark.parametrize("algorithm", ["grpo", "ppo", "dapo"])
def test_observations_are_never_trained_on(algorithm):
  """Their log-probs, rewards and advantages are not read at all."""
  made, _, rollout = rolled(algorithm=algorithm)
  seen = seen_of(rollout)
  assert not (np.asarray(rollout.loss) & seen).any()
  plain, found = moved(made, rollout)
  spoilt = rollout._replace(logp=jnp.where(seen, jnp.nan, rollout.logp))
  again, _ = moved(made, spoilt)
  assert same(plain, again)
  assert float(found["trained_tokens"]) == float(rollout.loss.sum())
  assert float(found["logprob_abs_diff_max"]) < 1e-4  # the ratio is 1
  assert float(found["observed"]) == pytest.approx(seen.sum() / (B * G))


def test_observations_are_read():
  """What is shown changes what is learnt of the actions behind it."""
  made, _, rollout = rolled()
  other = (rollout.tokens + 1) % nano.V
  shown = rollout._replace(
    tokens=jnp.where(seen_of(rollout), other, rollout.tokens)
  )
  assert not same(moved(made, rollout)[0], moved(made, shown)[0])
  # Behind the end nothing is read.
  ended = rollout._replace(
    tokens=jnp.where(rollout.attend, rollout.tokens, other)
  )
  assert same(moved(made, rollout)[0], moved(made, ended)[0])


def test_a_tool_on_the_host_is_the_same_tool():
  made, state, device = rolled()
  host_made, _, host = rolled(HOST)
  for name in ("tokens", "attend", "action", "finish"):
    assert same(getattr(device, name), getattr(host, name))
  np.testing.assert_allclose(host.logp, device.logp, atol=1e-6)
  # A whole step: collect gives the sampler the batch of the iterator.
  c = nano.config(sampling__max_new_tokens=T)
  place = lambda rows: jax.tree.map(jnp.asarray, rows)
  got = [
    refill.collect(m, task(t), state, Source(B), place, c)
    for m, t in ((made, DEVICE), (host_made, HOST))
  ]
  assert same(got[0][0].tokens, got[1][0].tokens)
  assert same(got[0][1].value, got[1][1].value)


def test_held_out_rows_are_played_in_turns():
  state = nano.start(method())
  found = [
    method(t).evaluate(state, batch(), jax.random.key(2), batch())
    for t in (DEVICE, HOST)
  ]
  assert same(found[0]["rollout"].tokens, found[1]["rollout"].tokens)
  total, count = found[1]["metrics"]["calls"]
  calls = np.asarray(found[1]["rollout"].extras["calls"])
  assert float(total) == calls.sum() > 0 and float(count) == B


def test_text_columns_reach_a_tool_on_the_host():
  asked = []

  def read(query, mask, columns):
    asked.append(list(columns["name"]))
    return observe(query, mask, {"fact": np.arange(len(query))})

  tool = HOST._replace(observe=read, columns=("name",), turns=1)
  made, names = method(tool), ["a", "b", "c", "d"]
  state = nano.start(made)
  made.phases.sample(state, batch(), state.key, {"columns": {"name": names}})
  assert asked == [[n for n in names for _ in range(G)]]


def test_a_tool_that_fails_stops_the_run():
  def fail(query, mask, columns):
    raise OSError("no such database")

  made = method(HOST._replace(observe=fail))
  state = nano.start(made)
  whole = jax.tree.map(np.asarray, batch())
  with pytest.raises(OSError, match="no such database"):
    made.phases.sample(state, batch(), state.key, whole)


# ---------------------------------------------------------- credit by turns
def signals(action, reward, tokens=None, valid=None, group=2):
  n = len(action)
  nothing = jnp.zeros((1, 0))
  return credit.Signals(
    reward=jnp.asarray(reward, jnp.float32),
    valid=jnp.ones(n, bool) if valid is None else jnp.asarray(valid),
    tokens=tokens,
    action=jnp.asarray(action, bool),
    logp=jnp.zeros(np.shape(action)),
    reference_logp=None,
    value=None,
    aside=nothing,
    aside_valid=nothing > 0,
    group=group,
  )


MINUS = functools.partial(
  advantage.group_advantage, center="mean", scale="none"
)


def test_a_turn_is_compared_with_the_same_turn():
  """By hand: two turns, a query that earns 2 and an answer that earns 1.

  gamma = 1/2: R = (2 + 1/2, 1) and (0 + 1/2 * 3, 3) and, in one turn, (1,).
  """
  action = [[1, 0, 1, 1], [1, 1, 0, 1], [1, 1, 0, 0]]
  tokens = jnp.asarray([[2.0, 9, 0, 0], [0, 0, 9, 0], [0, 0, 9, 9]])
  made = turn_credit.by_turn(MINUS, 2, 0.5)
  found, _ = made.assign(
    signals(action, [1.0, 3.0, 1.0], tokens, group=3), made.init()
  )
  first, second = np.array([2.5, 1.5, 1.0]), np.array([1.0, 3.0])
  a, b = first - first.mean(), second - second.mean()
  np.testing.assert_allclose(
    found.advantage,
    [[a[0], 0, b[0], b[0]], [a[1], a[1], 0, b[1]], [a[2], a[2], 0, 0]],
    atol=1e-6,
  )


def test_rows_without_judgement_leave_the_comparison():
  action = [[1, 0, 1, 1], [1, 1, 0, 1], [1, 1, 0, 1]]
  made = turn_credit.by_turn(MINUS, 2)
  found, _ = made.assign(
    signals(action, [1.0, np.nan, 0.0], valid=[True, False, True], group=3),
    made.init(),
  )
  np.testing.assert_allclose(
    found.advantage, [[0.5, 0, 0.5, 0.5], [0] * 4, [-0.5, -0.5, 0, -0.5]]
  )


def test_with_one_reward_and_equal_turns_it_is_the_groups():
  rng = np.random.default_rng(0)
  action = np.tile([1, 1, 0, 1, 0, 1], (8, 1))
  s = signals(action, rng.normal(size=8), group=4)
  turn = turn_credit.by_turn(advantage.group_advantage, 3)
  whole = credit.group(advantage.group_advantage)
  a, b = (c.assign(s, c.init())[0].advantage for c in (turn, whole))
  np.testing.assert_allclose(a, b, atol=1e-6)


def test_a_step_with_credit_by_turns():
  made, _, rollout = rolled(credit__baseline="turn", credit__gamma=0.5)
  params, _ = moved(made, rollout)
  plain, _ = moved(method(), rollout)
  assert not same(params, plain)


# ------------------------------------------------------------------ refused
@pytest.mark.parametrize(
  "tool,algorithm,changes,words",
  [
    (DEVICE, "best_of_n", {}, "best of n on a task with a tool"),
    (DEVICE, "nash_md", {}, "mixture of two policies"),
    (HOST, "remax", {}, "beside the samples"),
    (None, "grpo", {"credit__baseline": "turn"}, "without a tool"),
    (DEVICE, "grpo", {"credit__baseline": "last"}, "credit.baseline"),
    (DEVICE, "grpo", {"sampling__max_new_tokens": 6}, "max_new_tokens=6"),
  ],
)
def test_what_cannot_be_played_is_refused(tool, algorithm, changes, words):
  c = nano.config(**{"sampling__max_new_tokens": T, **changes})
  with pytest.raises(errors.UserError, match=words):
    registry.algorithm(algorithm).make(c, task(tool))


def test_rows_beside_the_samples_are_played_too():
  """ReMax's greedy answer reads what the tool says."""
  _, _, rollout = rolled(algorithm="remax")
  rows = rollout.group.shape[0] // B
  seen = seen_of(rollout).reshape(B, rows, -1)
  assert rows == G + 1 and seen[:, G].any()
  assert judge.on_host(rollout.extras["calls"]).shape == (B * rows,)
