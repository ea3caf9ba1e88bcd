"""The world of known errors: its law, its rewards, its pairs, its hacking."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlreward import errors
from rlreward.analytic import best_of_n
from rlreward.tasks import biased, biased_rows
from rlreward.types import LENGTH, Rollout

SMALL = {"topics": 2, "length": 3, "stop": 0.3}
NOISY = {**SMALL, "members": 3, "own": 0.5, "tail": 0.3, "length_bias": 0.25}


def rollout(answers, topic):
  """Answers with stop tokens (0) from where they end."""
  found = np.asarray(answers, np.int32)
  n, t = found.shape
  tokens = np.concatenate([1 + np.broadcast_to(topic, n)[:, None], found], 1)
  size = (found != 0).sum(1)
  action = (np.arange(t + 1) <= 1 + size[:, None]) & (np.arange(t + 1) > 0)
  return Rollout(
    tokens=jnp.asarray(tokens, jnp.int32),
    attend=jnp.asarray(action | (np.arange(t + 1) == 0)),
    action=jnp.asarray(action),
    loss=jnp.asarray(action),
    logp=jnp.zeros(tokens.shape),
    group=jnp.arange(n),
    finish=jnp.full(n, LENGTH),
    version=jnp.zeros((), jnp.int32),
  )


def test_the_law_lists_every_answer_once_with_its_chance():
  found = biased.law(SMALL)
  count = sum(4**n for n in range(4))
  assert found.tokens.shape == (count, 3)
  assert len(np.unique(found.tokens, axis=0)) == count
  np.testing.assert_allclose(np.exp(found.logp).sum(1), 1, rtol=1e-12)
  # By hand: topic 1 says "2 3" and stops.
  share = {1: 0.2, 2: 0.2, 3: 0.58, 4: 0.02}  # off topic, on it
  want = 0.7 * share[2] * 0.7 * share[3] * 0.3
  at = np.flatnonzero((found.tokens == [2, 3, 0]).all(1))[0]
  assert np.exp(found.logp[1, at]) == pytest.approx(want)
  assert found.mask[at].tolist() == [True, True, True]
  full = np.flatnonzero((found.tokens == [2, 3, 3]).all(1))[0]
  assert np.exp(found.logp[1, full]) == pytest.approx(want / 0.3 * 0.7 * 0.58)


def test_rewards_by_hand():
  task = biased.make({**SMALL, "length_bias": 0.25, "attribute_bias": 2.0})
  rows = rollout([[1, 4, 0], [2, 3, 3], [0, 0, 0]], 0)
  score = task.reward(rows, {})
  gold = task.gold(rows, {})
  np.testing.assert_allclose(gold.value, [0.5, -1.4, 0.0], atol=1e-6)
  np.testing.assert_allclose(score.value, [3.0, -0.65, 0.0], atol=1e-6)
  np.testing.assert_allclose(score.components["bias/length"], [0.5, 0.75, 0])
  np.testing.assert_allclose(score.components["bias/attribute"], [2, 0, 0])
  np.testing.assert_allclose(score.components["error"], 0, atol=1e-6)
  assert gold.components["tokens/spurious"].tolist() == [1, 0, 0]
  assert gold.components["tokens/off_topic"].tolist() == [0, 1, 0]


def test_parts_add_up_and_the_law_is_what_a_rollout_earns():
  task, law = biased.make(NOISY), biased.law(NOISY)
  for topic in range(2):
    score = task.reward(rollout(law.tokens, topic), {})
    # The same f32 sums in another program.
    np.testing.assert_allclose(score.value, law.reward[topic], atol=1e-5)
    parts = ("gold", "bias/length", "bias/attribute", "error")
    total = sum(np.asarray(score.components[p]) for p in parts)
    np.testing.assert_allclose(total, score.value, atol=1e-5)
    members = [score.components[f"member_{k}"] for k in range(3)]
    np.testing.assert_allclose(np.mean(members, 0), score.value, atol=1e-5)
    np.testing.assert_allclose(
      np.stack(members, -1), law.members[topic], atol=1e-5
    )


@pytest.mark.parametrize(
  ("rule", "want"),
  [("min", lambda m: m.min(-1)),
   ("uwo", lambda m: m.mean(-1) - 0.5 * m.var(-1)),
   ("mean_minus_std", lambda m: m.mean(-1) - 0.5 * m.std(-1))],
)  # fmt: skip
def test_members_are_joined_by_the_rule(rule, want):
  law = biased.law({**NOISY, "rule": rule, "coef": 0.5})
  np.testing.assert_allclose(law.reward, want(law.members), atol=1e-4)


def test_errors_are_of_a_member_an_answer_and_a_world():
  c = {**SMALL, "members": 2, "attribute_bias": 0.0, "tail": 1.0}
  error = biased.law(c).members - biased.law(c).gold[..., None]
  again = biased.law(c).members - biased.law(c).gold[..., None]
  np.testing.assert_array_equal(error, again)
  flat = error.reshape(-1)
  assert len(np.unique(flat.round(5))) > 0.98 * flat.size  # each its own
  other = biased.law({**c, "world": 1}).members
  assert np.abs(other - biased.law(c).members).max() > 1
  # Independent members: a correlation of 170 pairs of ranks.
  rank = lambda x: x.argsort().argsort()
  r = np.corrcoef(rank(error[..., 0].ravel()), rank(error[..., 1].ravel()))
  assert abs(r[0, 1]) < 4 / 170**0.5


def test_small_degrees_of_freedom_are_heavy_tails():
  c = {"length": 5, "attribute_bias": 0.0, "tail": 1.0}
  heavy, light = (biased.law({**c, "df": df}) for df in (2.0, 30.0))
  quantiles = lambda x: np.quantile(np.abs(x.reward - x.gold), [0.5, 0.999])
  # Student's t at 2 and at 30 degrees: medians, and one in a thousand.
  np.testing.assert_allclose(quantiles(heavy)[0], 0.816, atol=0.06)
  np.testing.assert_allclose(quantiles(light)[0], 0.683, atol=0.06)
  assert quantiles(heavy)[1] > 15 and quantiles(light)[1] < 5


def test_gold_falls_where_best_of_n_has_found_the_bias():
  law = biased.law({})
  with jax.enable_x64(True):
    gold = [
      float(jnp.sum(best_of_n.pmf(jnp.exp(p), r, n) * g))
      for n in (1, 4096, 10**7)
      for p, r, g in [
        (jnp.asarray(law.logp[0]), jnp.asarray(law.reward[0]), law.gold[0])
      ]
    ]
  assert gold[1] > gold[0] + 1 and gold[1] > gold[2] + 1


# ------------------------------------------------------------ draws
def test_demonstrations_are_draws_of_the_base():
  c = SMALL
  rows = next(biased.make(c).demonstrations("train", 12_000, 0))
  law = biased.law(c)
  power = 5 ** np.arange(3)
  code = rows["tokens"][:, 1:] @ power
  for topic in range(2):
    own = code[rows["tokens"][:, 0] == 1 + topic]
    assert len(own) == 6000
    share = np.bincount(own, minlength=125)[law.tokens @ power] / 6000
    # Five standard errors of a share of 6,000 draws, at most.
    np.testing.assert_allclose(
      share, np.exp(law.logp[topic]), atol=5 * 0.5 / 6000**0.5
    )
  size = (rows["tokens"][:, 1:] != 0).sum(1)
  assert (rows["attend"].sum(1) == 1 + np.minimum(size + 1, 3)).all()
  assert not rows["loss"][:, 0].any()


def test_labels_are_those_of_gold_with_noise():
  c = {**SMALL, "temperature": 0.5, "flip": 0.1}
  rows = next(biased.make(c).preferences("train", 40_000, 0))
  task = biased.make(c)
  topic = rows["tokens"][:, 0] - 1
  gold = np.asarray(task.gold(rollout(rows["tokens"][:, 1:], topic), {}).value)
  lead = (gold[0::2] - gold[1::2])[rows["valid"][0::2]]
  for gap in (0.2, 0.4, 1.0):
    near = np.abs(np.abs(lead) - gap) < 1e-3
    p = 1 / (1 + np.exp(-gap / 0.5))
    want = 0.9 * p + 0.1 * (1 - p)
    assert near.sum() > 300
    np.testing.assert_allclose(
      (lead[near] > 0).mean(), want, atol=5 * 0.5 / near.sum() ** 0.5
    )


def test_a_biased_judge_pays_for_the_biases_and_held_out_pairs_do_not():
  c = {**SMALL, "judge": "biased", "attribute_bias": 5.0, "temperature": 0.0}
  task = biased.make(c)
  train = next(task.preferences("train", 4000, 0))
  has = (train["tokens"][:, 1:] == 4).sum(1)
  differ = has[0::2] != has[1::2]
  assert (has[0::2] > has[1::2])[differ].all() and differ.sum() > 50
  test = next(task.preferences("test", 4000, 0))
  topic = test["tokens"][:, 0] - 1
  gold = np.asarray(task.gold(rollout(test["tokens"][:, 1:], topic), {}).value)
  known = test["valid"][0::2]
  assert (gold[0::2] > gold[1::2])[known].all() and 0.5 < known.mean() < 1


def test_a_finite_set_of_pairs_is_gone_through_again_and_again():
  task = biased.make({**SMALL, "pairs": 12})
  stream = task.preferences("train", 12, 3)
  key = lambda b: sorted(map(tuple, b["tokens"].reshape(12, -1).tolist()))
  first, second = next(stream), next(stream)
  assert key(first) == key(second)
  assert not np.array_equal(first["tokens"], second["tokens"])
  assert first["valid"].all()
  other = next(task.preferences("train", 12, 4))
  assert key(other) != key(first)


def test_the_stream_resumes_and_hosts_share_it():
  task = biased.make(SMALL)
  stream = task.preferences("train", 8, 1)
  next(stream)
  state, want = stream.get_state(), next(stream)
  again = task.preferences("train", 8, 1)
  again.set_state(state)
  got = next(again)
  assert all(np.array_equal(got[k], want[k]) for k in want)
  halves = [
    biased.make(SMALL, process_index=i, process_count=2).preferences(
      "train", 8, 1
    )
    for i in range(2)
  ]
  whole = next(task.preferences("train", 8, 1))
  parts = [next(h) for h in halves]
  for k in whole:
    joined = np.concatenate([p[k] for p in parts])
    np.testing.assert_array_equal(joined, whole[k])
  with pytest.raises(errors.UserError, match="split"):
    task.batches("dev", 8, 0)


def test_each_topic_is_asked_equally_often():
  batch = next(biased.make({"topics": 3, "length": 2}).batches("train", 9, 0))
  assert np.bincount(batch["prompt"][:, 0]).tolist() == [0, 3, 3, 3]
  assert batch["prompt_mask"].all()


def test_outcomes_are_the_law_of_the_prompts_that_are_asked():
  task, law = biased.make(NOISY), biased.law(NOISY)
  batch = {"prompt": np.asarray([[2], [1]], np.int32)}
  found = task.spec["outcomes"](batch)
  np.testing.assert_allclose(found.gold, law.gold[[1, 0]], rtol=1e-6)
  np.testing.assert_allclose(found.reward, law.reward[[1, 0]], rtol=1e-6)
  assert found.rest is None and found.tokens.shape == (2, 85, 3)
  every = list(itertools.product(range(1, 5), repeat=3))
  listed = {tuple(x) for x in found.tokens[0].tolist()}
  assert set(every) <= listed
  assert "outcomes" not in biased.make({"topics": 4, "length": 6}).spec


@pytest.mark.parametrize(
  ("changes", "said"),
  [
    ({"topics": 1}, "topics=1"),
    ({"length": 0}, "length=0"),
    ({"members": 0}, "members=0"),
    ({"pairs": -1}, "pairs=-1"),
    ({"shares": (0.5, 0.5)}, "shares"),
    ({"shares": (0.5, 0.5, 0.5, 0.5)}, "shares"),
    ({"worth": (1.0, 2.0)}, "worth"),
    ({"worth": (1.0, 2.0, float("nan"), 0.0)}, "worth"),
    ({"tail": -1.0}, "tail"),
    ({"df": 0.0}, "df"),
    ({"stop": 1.0}, "stop"),
    ({"flip": 1.5}, "flip"),
    ({"length_bias": float("inf")}, "length_bias"),
    ({"judge": "me"}, "judge"),
    ({"rule": "best"}, "rule"),
    ({"lenght": 3}, "lenght"),
  ],
)
def test_fields_that_cannot_work_are_refused(changes, said):
  with pytest.raises(errors.UserError, match=said):
    biased.make({"name": "biased", **changes})


def test_the_listing_of_too_many_is_refused():
  with pytest.raises(errors.UserError, match="can be listed"):
    biased.law({"topics": 4, "length": 6})
  assert biased_rows.vocab({"topics": 4}) == 7
