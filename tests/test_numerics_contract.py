"""One test for each silent bug of the field (the numbers are the pains').

Expected later: P11 and P13 (math verifiers), P28 (reward-model scores), P30
(code execution). P9 and P18 in full are in test_resume.py and test_mesh.py,
P19 in models/test_pretrained.py.
"""

import ast
import pathlib

import jax
import jax.numpy as jnp
import nano
import numpy as np
import pytest

from rlreward import errors, metrics
from rlreward.models import score as score_lib
from rlreward.ops import kl, masked
from rlreward.steps import roles
from rlreward.types import LENGTH, STOP, Rollout, Score

P, T, G, B = nano.P, nano.T, nano.G, nano.B
N = B * G


def rolled(method, seed=0):
  state = nano.start(method)
  key = jax.random.fold_in(state.key, seed)
  rollout = method.phases.sample(state, nano.batch(), key)
  return state, rollout, method.phases.score(rollout, nano.batch())


def updated(method, rollout, score):
  state, found = method.phases.update(nano.start(method), rollout, score)
  return state.params, found


def test_p2_kl_has_the_gradient_of_its_name():
  # One token of a real model: the expected gradient by enumerating it.
  c = nano.config()
  actor = roles.policy(c.model)
  new = actor.model.init(jax.random.key(0))
  ref = actor.model.init(jax.random.key(1))
  b = nano.batch(1)
  ids = jnp.arange(nano.V)[:, None]
  tokens = jnp.concatenate([jnp.repeat(b["prompt"], nano.V, 0), ids], 1)
  attend = jnp.concatenate(
    [jnp.repeat(b["prompt_mask"], nano.V, 0), jnp.ones_like(ids, bool)], 1
  )

  def logp(variables):
    return score_lib.completion_logprob(
      actor.model, variables, tokens, attend, P, nano.V
    )[0][:, 0]

  def exact(v, w):  # KL(v || w)
    a, b = logp(v), logp(w)
    return jnp.sum(jnp.exp(a) * (a - b))

  def expected(surrogate):
    p = jax.lax.stop_gradient(jnp.exp(logp(new)))
    return lambda v: jnp.sum(p * surrogate(logp(v), logp(ref)))

  grad = lambda f: jax.jit(jax.grad(f))(new)
  reverse, forward = (
    grad(lambda v: exact(v, ref)),
    grad(lambda v: exact(ref, v)),
  )
  # 1e-5: f32 sums over 16 tokens of gradients of size 1.
  assert nano.gap(grad(expected(kl.reverse_kl_surrogate)), reverse) < 1e-5
  assert nano.gap(grad(expected(kl.forward_kl_surrogate)), forward) < 1e-5
  assert nano.gap(reverse, forward) > 1e-2
  assert nano.gap(grad(expected(kl.k1)), jax.tree.map(jnp.zeros_like, new)) < (
    1e-5
  )


def test_p3_nothing_encodes_what_it_decoded():
  # Text is made into ids where data comes in, and nowhere else: `scoring` and
  # what deals with reward models read rows of files, as the tasks do; a reward
  # model judges text in its own tokens, which are never the policy's. What a
  # tool says comes in too: it is encoded alone, behind the policy's ids.
  allowed = {"tasks", "runs.py", "annotate.py", "models"}
  allowed |= {"scoring.py", "reward_models.py", "held_rows.py"}
  allowed |= {"calibrate.py", "model_rewards.py", "rewards/text_tool.py"}
  package = nano.REPO / "rlreward"
  found = set()
  for file in package.rglob("*.py"):
    place = file.relative_to(package)
    part = str(place) if place.name == "text_tool.py" else place.parts[0]
    for node in ast.walk(ast.parse(file.read_text())):
      called = isinstance(node, ast.Call) and isinstance(
        node.func, ast.Attribute
      )
      # str.encode() has no argument; a tokenizer's has the text.
      if (
        called
        and node.args
        and node.func.attr in ("encode", "apply_chat_template")
      ):
        found.add(part)
  assert found <= allowed, found - allowed


def test_p4_the_stop_token_is_trained_and_pad_is_not():
  method = nano.method()
  _, rollout, score = rolled(method)
  stopped = np.asarray(rollout.finish == STOP)
  assert stopped.any() and not stopped.all()
  assert nano.task().spec["pad_id"] == nano.STOP_ID  # pad == eos
  for n in np.flatnonzero(stopped):
    last = np.flatnonzero(rollout.loss[n])[-1]
    assert rollout.tokens[n, last] == nano.STOP_ID
    assert not np.any(rollout.loss[n, last + 1 :])
  # Whatever lies in unattended slots changes nothing.
  junk = jnp.where(rollout.attend, rollout.tokens, 7)
  a, _ = updated(method, rollout, score)
  b, _ = updated(method, rollout._replace(tokens=junk), score)
  assert nano.gap(a, b) == 0


@pytest.mark.parametrize("side", ["left", "right"])
def test_p5_padding_changes_no_gradient(side):
  method = nano.method()
  _, rollout, score = rolled(method)
  want, _ = updated(method, rollout, score)
  wider = nano.method(sampling__max_new_tokens=T + 3)
  pads = ((0, 0), (3, 0)) if side == "left" else ((0, 0), (0, 3))

  def pad(x):
    fill = 9 if x.dtype == jnp.int32 else 0
    wide = x.ndim == 2
    return jnp.pad(x, pads, constant_values=fill) if wide else x

  padded = jax.tree.map(pad, rollout)
  got, _ = updated(method if side == "left" else wider, padded, score)
  assert nano.gap(want, got) < 1e-5


def test_p6_sampler_and_trainer_agree_at_step_zero():
  method = nano.method()
  _, rollout, score = rolled(method)
  _, found = updated(method, rollout, score)
  assert float(found["ratio"]) == pytest.approx(1, abs=1e-6)
  assert float(found["logprob_abs_diff_max"]) < 1e-5
  off = rollout._replace(logp=rollout.logp - 0.1)
  _, found = updated(method, off, score)
  assert float(found["logprob_abs_diff_max"]) == pytest.approx(0.1, abs=1e-4)


def test_p7_the_rollout_carries_its_temperature():
  method = nano.method(sampling__temperature=0.6)
  _, rollout, score = rolled(method)
  _, found = updated(method, rollout, score)
  assert float(found["logprob_abs_diff_max"]) < 1e-5
  hot = rollout._replace(
    sampling=rollout.sampling._replace(temperature=jnp.float32(1.0))
  )
  _, found = updated(method, hot, score)
  assert float(found["logprob_abs_diff_max"]) > 0.05
  for change in (
    {"sampling__top_p": 0.9},
    {"sampling__top_k": 5},
    {"sampling__min_p": 0.1},
    {"sampling__temperature": 0.0},
  ):
    with pytest.raises(errors.UserError, match="another distribution"):
      nano.method(**change)


@pytest.mark.parametrize(
  "algorithm", ["grpo", "dr_grpo", "dapo", "gspo", "cispo"]
)
def test_p8_microbatches_give_one_gradient(algorithm):
  whole = nano.method(algorithm, loss__kl_beta=0.1)
  _, rollout, score = rolled(whole)
  want, found = updated(whole, rollout, score)
  moved = nano.gap(want, nano.start(whole).params)
  for rows in (1, 2, 8):
    cut = nano.method(algorithm, loss__kl_beta=0.1, microbatch=rows)
    got, same = updated(cut, rollout, score)
    # f32 sums in another order, against a step of `moved`.
    assert nano.gap(want, got) < 1e-4 * moved
    np.testing.assert_allclose(same["loss"], found["loss"], atol=1e-5)


def test_p8_ragged_rows_weigh_by_tokens_not_by_pieces():
  # A mean of means would fail here: pieces hold different numbers of tokens.
  method = nano.method("dapo", microbatch=4)
  _, rollout, score = rolled(method)
  short = jnp.arange(N)[:, None] < 4
  cut = rollout.action & ~(short & (jnp.arange(P + T) > P))
  rollout = rollout._replace(
    action=cut,
    attend=rollout.attend & (cut | (jnp.arange(P + T) < P)),
    loss=cut,
  )
  got, _ = updated(method, rollout, score)
  want, _ = updated(nano.method("dapo"), rollout, score)
  assert nano.gap(want, got) < 1e-5


def test_p12_invalid_rewards_leave_statistics_and_loss():
  method = nano.method()
  _, rollout, score = rolled(method)
  valid = jnp.arange(N) % 3 != 0
  poisoned = Score(
    jnp.where(valid, score.value, jnp.nan),
    valid,
    None,
    {"even": jnp.where(valid, score.value, jnp.inf)},
  )
  got, found = updated(method, rollout, poisoned)
  assert all(np.isfinite(x).all() for x in jax.tree.leaves(got))
  assert float(found["valid"]) == pytest.approx(float(valid.mean()))
  # The advantages are those of the valid rows alone, by a plain loop.
  adv = np.asarray(found["rows"]["advantage"])
  for b in range(B):
    rows = np.arange(b * G, (b + 1) * G)
    ok = rows[np.asarray(valid)[rows]]
    r = np.asarray(score.value, np.float64)[ok]
    sd = r.std(ddof=1)
    want = (r - r.mean()) / (sd + 1e-6) if sd > 1e-7 else 0 * r
    np.testing.assert_allclose(adv[ok], want, atol=1e-4)
    assert np.all(adv[np.setdiff1d(rows, ok)] == 0)
  nothing = poisoned._replace(valid=jnp.zeros(N, bool))
  still, _ = updated(method, rollout, nothing)
  assert nano.gap(still, nano.start(method).params) == 0


def test_p14_observations_are_read_but_never_trained_on():
  # prompt | action action | observation | action action, by a plain loss.
  method = nano.method("dr_grpo")
  _, rollout, score = rolled(method)
  here = jnp.broadcast_to(jnp.arange(P + T), (N, P + T))
  tool = here == P + 2
  attend = rollout.attend | (here >= P)
  action = (here >= P) & ~tool
  rollout = rollout._replace(attend=attend, action=action, loss=action)
  got, found = updated(method, rollout, score)
  actor = roles.policy(nano.config().model)
  adv = found["rows"]["advantage"]

  def plain(params):
    logits = actor.model.logits(params["policy"], rollout.tokens, attend)
    logp = jax.nn.log_softmax(logits[:, P - 1 : -1])
    picked = jnp.take_along_axis(logp, rollout.tokens[:, P:, None], -1)[..., 0]
    terms = jnp.where(action[:, P:], picked * adv[:, None], 0)
    return -jnp.sum(terms) / (N * T)

  start = nano.start(method).params
  grads = jax.jit(jax.grad(plain))(start)
  c = nano.config().optimizer
  want = jax.tree.map(
    lambda p, g: p - c.learning_rate * g / (jnp.abs(g) + c.eps), start, grads
  )
  assert nano.gap(want, got) < 1e-5
  assert nano.gap(want, start) > 1e-4


def test_p15_nan_under_a_mask_changes_neither_value_nor_gradient():
  method = nano.method(loss__kl_beta=0.1)
  _, rollout, score = rolled(method)
  want, _ = updated(method, rollout, score)
  hidden = rollout._replace(
    logp=jnp.where(rollout.action, rollout.logp, jnp.nan)
  )
  got, found = updated(method, hidden, score)
  assert nano.gap(want, got) == 0
  assert all(np.all(np.isfinite(x)) for x in jax.tree.leaves(found))
  f = lambda x: masked.masked_mean(jnp.log(x), jnp.array([True, False]))
  value, grad = jax.value_and_grad(f)(jnp.array([2.0, -1.0]))
  np.testing.assert_allclose([value, *grad], [np.log(2), 0.5, 0], rtol=1e-6)


def test_p20_the_reference_is_the_adapter_at_the_start():
  changes = {"model__lora_rank": 2, "loss__kl_beta": 0.1}
  method = nano.method(**changes)
  state, rollout, score = rolled(method)
  assert set(state.params["policy"]) == {"lora"}
  assert set(state.frozen) == {"base", "reference"}
  assert set(state.frozen["reference"]) == {"lora"}  # no copy of the base
  base = jax.device_get(state.frozen["base"])
  _, found = method.phases.update(state, rollout, score)
  assert float(found["kl"]) == pytest.approx(0, abs=1e-6)
  # Continue from an adapter that has been trained: it is the reference.
  noise = lambda x: jax.random.normal(jax.random.key(5), x.shape)
  trained = {**base, "lora": jax.tree.map(noise, state.frozen["reference"])}
  trained["lora"] = trained["lora"]["lora"]
  state = jax.jit(method.init)(jax.random.key(0), trained)
  rollout = method.phases.sample(state, nano.batch(), jax.random.key(9))
  moved, found = method.phases.update(state, rollout, score)
  assert float(found["kl"]) == pytest.approx(0, abs=1e-5)
  assert nano.gap(moved.frozen["base"], base) == 0


def test_p22_a_second_compilation_is_counted_and_told():
  told = []
  with metrics.CompileCounter(warn=told.append, min_seconds=0.0) as counter:
    method = nano.method(sampling__max_new_tokens=T + 1)
    state = nano.start(method)
    for size in (B, B):
      with counter.phase("sample"):
        method.phases.sample(state, nano.batch(size), state.key)
    assert counter.compiles["sample"] >= 1 and not told
    with counter.phase("sample"):
      method.phases.sample(state, nano.batch(B + 1), state.key)
  assert len(told) == 1 and "'sample' compiled again" in told[0]


def test_p27_truncated_rows_follow_the_policy_of_the_config():
  kept = nano.method()
  _, rollout, score = rolled(kept)
  cut = np.asarray(rollout.finish == LENGTH)
  assert cut.any() and not cut.all()
  tokens = np.asarray(rollout.action.sum(1))
  _, found = updated(kept, rollout, score)
  assert float(found["trained_tokens"]) == tokens.sum()
  _, found = updated(nano.method(truncation="mask"), rollout, score)
  assert float(found["trained_tokens"]) == tokens[~cut].sum()
  penal = nano.method(truncation="penalise", overlong_buffer=2)
  _, found = updated(penal, rollout, score)
  shaped = np.asarray(found["rows"]["reward"] - score.value)
  np.testing.assert_allclose(shaped, -np.clip((tokens - T + 2) / 2, 0, 1))


def test_the_list_of_later_pains_is_in_the_docstring():
  text = pathlib.Path(__file__).read_text().split('"""')[1]
  names = {f"p{n}" for n in (11, 13, 28, 30)}
  assert names <= {w.lower().strip(",().") for w in text.split()}
  assert isinstance(Rollout._fields, tuple)
