"""Shapings: by hand, put together, and inside an online step."""

import jax
import jax.numpy as jnp
import nano
import numpy as np
import pytest

from rlreward import errors
from rlreward.ops import advantage, policy, transform
from rlreward.rewards import shaping
from rlreward.steps import credit, online
from rlreward.types import Score, Shaping

HELP = np.asarray([8.0, 1.0, 3.0, -4.0], np.float32)
SAFE = np.asarray([-4.0, 1.0, -1.0, 8.0], np.float32)
NAMES = ("help", "safe")


def score(**parts):
  parts = {"help": HELP, "safe": SAFE, **parts}
  parts = {k: jnp.asarray(v, jnp.float32) for k, v in parts.items()}
  value = parts["help"] + parts["safe"]
  return Score(value, jnp.ones(4, bool), None, parts)


class Rows:
  """What a shaping reads of a rollout."""

  def __init__(self, **beside):
    self.extras = {f"beside/{k}": jnp.asarray(v) for k, v in beside.items()}


def apply(made, given, rollout=None):
  state = made.init()
  found, after = made.update(given, state, rollout or Rows())
  assert jax.tree.structure(after) == jax.tree.structure(state)
  return found


def test_lsc_of_components_is_the_op():
  ref = np.stack([HELP - 1, SAFE + 2], -1)
  given = score(help_reference=ref[:, 0], safe_reference=ref[:, 1])
  made = shaping.lsc(NAMES, shaping.answer(), (1.0, 0.5), 2.0)
  r = np.stack([HELP, SAFE], -1)
  want = transform.lsc(r / 2, ref / 2, jnp.asarray([1.0, 0.5]))
  np.testing.assert_allclose(apply(made, given).value, want, rtol=1e-6)
  assert made.beside == 0
  assert set(made.reads) >= {*NAMES, "help_reference", "safe_reference"}


def test_the_reference_is_a_quantile_of_samples_beside_the_row():
  rng = np.random.default_rng(0)
  rows = {k: rng.normal(size=(4, 9)).astype(np.float32) for k in NAMES}
  made = shaping.lsc(NAMES, shaping.quantile(0.85, 9))
  assert made.beside == 9
  ref = np.stack([np.quantile(rows[k], 0.85, axis=1) for k in NAMES], -1)
  want = transform.lsc(np.stack([HELP, SAFE], -1), ref)
  got = apply(made, score(), Rows(**rows)).value
  np.testing.assert_allclose(got, want, rtol=1e-5)


def test_without_names_the_value_is_shaped():
  rows = np.asarray([[0.0, 2.0]] * 4, np.float32)
  made = shaping.chain(
    shaping.centre((), shaping.mean(2)), shaping.sigmoid(), shaping.total(())
  )
  got = apply(made, score(), Rows(value=rows)).value
  want = 1 / (1 + np.exp(-(HELP + SAFE - 1)))
  np.testing.assert_allclose(got, want, rtol=1e-6)


def test_parts_of_a_named_reward_are_found():
  given = score()
  parts = {f"judge/{k}": v for k, v in given.components.items()}
  found = apply(shaping.total(("help", "judge/safe")),
                given._replace(components=parts))  # fmt: skip
  np.testing.assert_allclose(found.value, HELP + SAFE)
  with pytest.raises(errors.UserError, match="polite"):
    apply(shaping.total(("polite",)), given)
  twice = {**parts, "other/help": parts["judge/help"]}
  with pytest.raises(errors.UserError, match="help"):
    apply(shaping.total(("help",)), given._replace(components=twice))


def test_unknown_rewards_and_references_are_no_judgement():
  hole = np.where(np.arange(4) == 1, np.nan, HELP)
  rows = np.ones((4, 3), np.float32)
  rows[2] = np.nan
  made = shaping.lsc(NAMES, shaping.quantile(0.5, 3))
  found = apply(made, score(help=hole), Rows(help=rows, safe=np.ones((4, 3))))
  np.testing.assert_array_equal(found.valid, [True, False, False, True])
  assert np.isfinite(found.value).all()


@pytest.mark.parametrize(
  ("made", "want"),
  [
    (shaping.affine(("help",), 2.0, 1.0), 2 * HELP + 1),
    (shaping.clip(("help",), -1.0, 2.0), np.clip(HELP, -1, 2)),
    (shaping.centre(("help",), shaping.fixed(3.0)), HELP - 3),
    (shaping.log_sigmoid(("help",)), -np.log1p(np.exp(-HELP))),
  ],
)
def test_small_shapings_by_hand(made, want):
  found = apply(shaping.chain(made, shaping.total(("help",))), score())
  np.testing.assert_allclose(found.value, want, rtol=1e-6)
  np.testing.assert_array_equal(found.components["safe"], SAFE)


def test_preference_is_the_mean_chance_to_win():
  rows = np.asarray([[0.0, 4.0]] * 4, np.float32)
  made = shaping.chain(
    shaping.preference(("help",), 2), shaping.total(("help",))
  )
  got = apply(made, score(), Rows(help=rows)).value
  want = (1 / (1 + np.exp(-HELP)) + 1 / (1 + np.exp(4 - HELP))) / 2
  np.testing.assert_allclose(got, want, rtol=1e-5)


def test_a_chain_hands_on_state_and_needs():
  count = Shaping(
    lambda: jnp.zeros(()),
    lambda s, n, r: (s._replace(value=s.value + n), n + 1),
    beside=3,
    reads=("help",),
  )
  made = shaping.chain(count, shaping.total(()), count)
  given, state = score(), made.init()
  once, state = made.update(given, state, Rows())
  twice, state = made.update(given, state, Rows())
  np.testing.assert_allclose(once.value, given.value)
  np.testing.assert_allclose(twice.value, given.value + 2)
  assert made.beside == 3 and made.reads == ("help",)
  with pytest.raises(ValueError, match="2, 3"):
    shaping.chain(count, shaping.preference((), 2))


@pytest.mark.parametrize(
  "bad",
  [
    lambda: shaping.total(NAMES, (1.0,)),
    lambda: shaping.lsc(NAMES, [shaping.fixed(0.0)]),
  ],
)
def test_counts_that_disagree_are_refused(bad):
  with pytest.raises(ValueError, match=r"1 weights|1 references"):
    bad()


def test_each_name_may_have_a_reference_of_its_own():
  # The paper's: a quantile for help, a canned refusal for harmlessness.
  rows = np.asarray([[0.0, 2.0]] * 4, np.float32)
  made = shaping.lsc(NAMES, [shaping.quantile(0.5, 2), shaping.answer()])
  given = score(safe_reference=SAFE - 3)
  want = transform.lsc(np.stack([HELP, SAFE], -1),
                       np.stack([np.ones(4), SAFE - 3], -1))  # fmt: skip
  got = apply(made, given, Rows(help=rows)).value
  np.testing.assert_allclose(got, want, rtol=1e-6)
  assert made.beside == 2 and "safe_reference" in made.reads


# ------------------------------------------------------------ in a step
def parts_reward(rollout, batch):
  """Two components that the value is not made of."""
  even = nano.even_share(rollout, batch).value
  zeros = jnp.sum(rollout.action & (rollout.tokens < 4), 1, dtype=jnp.float32)
  parts = {"help": even, "safe": -zeros}
  return Score(even, jnp.ones(even.shape, bool), None, parts)


def made_online(shape, asides=(), seen=None):
  def read(s):
    if seen is not None:
      seen.append(s.aside.shape)
    return advantage.group_advantage(
      s.grouped(s.reward), s.grouped(s.valid), scale="none"
    ).reshape(-1)

  return online.make(
    nano.config(),
    nano.task(parts_reward),
    loss=policy.reinforce(),
    credit=credit.sequence(read, asides=asides),
    aggregate="seq_mean_token_sum",
    shaping=shape,
  )


def test_a_step_shapes_with_samples_of_the_first_policy():
  # By hand: the rows beside are split off here and shaped with numpy.
  m = 6
  method = made_online(shaping.lsc(NAMES, shaping.quantile(0.7, m)))
  state = jax.jit(method.init)(jax.random.key(0))
  batch = nano.batch()
  rollout = method.phases.sample(state, batch, state.key)
  judged = method.phases.score(rollout, batch)
  b, g = nano.B, nano.G
  cut = {k: np.asarray(v).reshape(b, g + m)
         for k, v in judged.components.items()}  # fmt: skip
  loss = np.asarray(rollout.loss).any(1).reshape(b, g + m)
  assert loss[:, :g].all() and not loss[:, g:].any()
  u = sum(
    -np.log1p(np.exp(-(v[:, :g] - np.quantile(v[:, g:], 0.7, 1)[:, None])))
    for v in cut.values()
  )
  _, metrics = method.phases.update(state, rollout, judged)
  rows = np.asarray(metrics["rows"]["reward"]).reshape(b, g + m)
  np.testing.assert_allclose(rows[:, :g], u, rtol=1e-5)
  assert np.isnan(rows[:, g:]).all()
  got = np.asarray(metrics["rows"]["advantage"]).reshape(b, g + m)[:, :g]
  want = u - u.mean(1, keepdims=True)  # shaped first, centred then
  np.testing.assert_allclose(got, want, atol=1e-6)


def test_samples_beside_do_not_mix_with_those_of_the_credit():
  seen = []
  own = (credit.Aside("policy", 1, greedy=True),)
  shape = shaping.lsc(NAMES, shaping.quantile(0.7, 3))
  method = made_online(shape, own, seen)
  jax.eval_shape(method.step, jax.eval_shape(method.init, jax.random.key(0)),
                 nano.batch(), jax.random.key(0))  # fmt: skip
  assert seen == [(nano.B, 1)]
  assert "reference" in method.reads
