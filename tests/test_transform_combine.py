"""LSC: prices in closed form, what the claim asks, links, refusals, sizes."""

import jax
import jax.numpy as jnp
import nano
import numpy as np
import pytest

from rlreward import config as config_lib
from rlreward import errors, registry
from rlreward.analytic import tilt
from rlreward.configfile import execute, find
from rlreward.methods import transform_combine
from rlreward.ops import transform
from rlreward.tasks import attributes
from rlreward.types import Arm, Score

SPEC = "configs/transform_combine.py"
STUDY = config_lib.study(SPEC)
FILE = vars(execute(find(SPEC)))


def mini(**changes):
  return config_lib.replace(config_lib.load(f"{SPEC}:mini"), changes)


def arms():
  return {a.name: a.overrides for a in (*STUDY.arms, FILE["BROKEN"])}


def combined(name, law):
  """What each arm adds up, f64[X, Y]."""
  if name == "lsc":
    return transform.lsc(law.reward, law.quantile[:, None])
  if name == "fixed":
    return transform.lsc(law.reward, np.zeros(2))
  if name == "centred":
    return transform.total(law.reward - law.mean[:, None])
  return transform.total(law.reward)


def optimum(name, beta):
  """The evaluation of an arm's optimum, as `claims` reports it, in float64."""
  with jax.enable_x64(True):
    law = attributes.law(mini().task)
    logq = tilt.tilted(law.logp, combined(name, law), 1 / beta)
    kl = np.asarray(tilt.divergence(logq, law.logp))
  q = np.exp(np.asarray(logq))
  above = (law.reward > law.quantile[:, None] + 1e-9).all(-1)
  gain = np.einsum("xy,xyk->x", q, law.reward) - law.mean.sum(1)
  found = {"last/kl": kl.mean(), "last/reward": (q * above).sum(1).mean()}
  return found | {f"last/gain/{i}": g for i, g in enumerate(gain)}


def price(name):
  """The beta at which the optimum of an arm spends the config's nats."""
  low, high = 0.05, 20.0
  for _ in range(30):
    middle = (low * high) ** 0.5
    above = optimum(name, middle)["last/kl"] > FILE["NATS"]
    low, high = (middle, high) if above else (low, middle)
  return low


@pytest.mark.parametrize(
  ("name", "want"),
  [("lsc", 0.532), ("sum", 3.836), ("centred", 3.836), ("fixed", 0.873)],
)
def test_prices_spend_two_nats_in_closed_form(name, want):
  assert price(name) == pytest.approx(want, abs=2e-3)
  if name != "lsc":  # its price is that of a learned policy
    assert FILE["PRICE"][name] == want


def test_the_claim_is_true_of_the_optima_and_not_of_the_broken_variant():
  exact = {name: optimum(name, price(name)) for name in arms()}
  assert STUDY.claim(exact)
  assert exact["lsc"]["last/reward"] > exact["sum"]["last/reward"] + 0.3
  assert not STUDY.claim({**exact, "lsc": exact["fixed"]})
  dear = {**exact, "lsc": optimum("lsc", 0.3)}  # another KL is no comparison
  assert not STUDY.claim(dear)


def test_a_shift_decides_what_zero_compares_with():
  # The broken variant's flaw: BT rewards are known up to a shift of a prompt.
  law = attributes.law(mini().task)
  still = attributes.law({"shift": 0.0})
  moved = lambda x, ref: np.asarray(transform.lsc(x.reward, ref(x)))
  quantile = lambda x: x.quantile[:, None]
  zero = lambda x: np.zeros(2)
  # f32 roundings of rewards up to 60.
  np.testing.assert_allclose(
    moved(law, quantile), moved(still, quantile), atol=1e-4
  )
  assert np.abs(moved(law, zero) - moved(still, zero)).max() > 1


# ------------------------------------------------------------ the method
def two(rollout, batch):
  even = nano.even_share(rollout, batch).value
  odd = 1 - even
  parts = {"help": even, "safe": odd, "help_reference": 0 * even,
           "safe_reference": 0 * even + 0.5}  # fmt: skip
  return Score(even, even == even, None, parts)


def made(**changes):
  """(method, its abstract first state)."""
  fields = {f"shaping__{k}": v for k, v in changes.items()}
  c = nano.config(shaping__names=("help", "safe"), **fields)
  method = transform_combine.make(c, nano.task(two))
  return method, jax.eval_shape(method.init, jax.random.key(0))


def one_step(**changes):
  method, _ = made(**changes)
  state = jax.jit(method.init)(jax.random.key(0))
  return jax.jit(method.step)(state, nano.batch(), state.key)


@pytest.mark.parametrize(
  "changes",
  [
    {"reference": "answer"},
    {"reference": "quantile,answer", "method": "gaussian", "samples": 3},
    {"link": "preference", "samples": 3, "temperature": 2.0},
    {"link": "sum", "weights": (1.0, 0.5)},
  ],
  ids=lambda c: "-".join(map(str, c.values())),
)
def test_every_way_to_combine_takes_a_step(changes):
  method, state = made(**changes)
  after, metrics = jax.eval_shape(
    method.step, state, nano.batch(), jax.random.key(0)
  )
  assert jax.tree.structure(after) == jax.tree.structure(state)
  link, words = changes.get("link", "lsc"), changes.get("reference", "")
  drawn = link == "preference" or "quantile" in words
  rows = nano.B * (nano.G + (changes["samples"] if drawn else 0))
  assert metrics["rows"]["reward"].shape == (rows,)
  assert ("reference" in method.reads) == drawn


def test_centring_is_cancelled_by_the_baseline():
  # Known beforehand: RLOO takes off any shift of a prompt.
  raw, first = one_step(link="sum", samples=2)
  centred, second = one_step(link="centred", samples=2)
  assert float(first["reward_shaped"]) != float(second["reward_shaped"])
  # Shifts of 1 at Adam steps that are linear in the gradient: f32 roundings.
  assert nano.gap(raw.params, centred.params) < 1e-5


@pytest.mark.parametrize(
  ("changes", "word"),
  [
    ({"link": "product"}, "link"),
    ({"reference": "median"}, "reference"),
    ({"reference": "quantile,answer,fixed"}, "3 entries for 2"),
    ({"weights": (1.0,)}, "1 entries for 2"),
    ({"method": "mode"}, "method"),
    ({"samples": 0}, "samples"),
    ({"quantile": 1.0}, "quantile"),
    ({"temperature": 0.0}, "temperature"),
  ],
)
def test_what_cannot_be_is_refused_before_anything_compiles(changes, word):
  with pytest.raises(errors.UserError, match=word):
    made(**changes)


@pytest.mark.parametrize("arm", sorted(arms()))
def test_arms_are_made_and_evaluate_what_the_claim_reads(arm):
  c = mini(**arms()[arm], **{"eval.prompts": 8, "prompts_per_step": 8})
  task = registry.task(c)
  method = transform_combine.make(c, task)
  state = jax.eval_shape(method.init, jax.random.key(0))
  batch = jax.tree.map(jnp.asarray, next(task.batches("train", 8, 0)))
  after, _ = jax.eval_shape(method.step, state, batch, state.key)
  assert jax.tree.structure(after) == jax.tree.structure(state)
  assert method.evaluate is not None
  run = lambda s, k: method.evaluate(s, batch, k)["metrics"]
  read = jax.eval_shape(run, state, jax.random.key(0))
  assert {"reward", "kl", "gain/0", f"gain/{FILE['PROMPTS'] - 1}"} <= set(read)


def test_the_size_of_the_paper_builds_without_memory():
  c = config_lib.load(f"{SPEC}:pod")
  shape = {"path": "", "vocab": 128_256, "width": 2048, "layers": 16,
           "heads": 32, "kv_heads": 8, "head_dim": 64, "mlp": 8192,
           "tied": True}  # fmt: skip
  c = config_lib.replace(c, {f"model.{k}": v for k, v in shape.items()})

  def reward(rollout, batch):
    s = two(rollout, batch)
    names = {"help": "helpful", "safe": "harmless",
             "safe_reference": "harmless/harmless_reference"}  # fmt: skip
    parts = {new: s.components[old] for old, new in names.items()}
    return s._replace(components=parts)

  method = transform_combine.make(c, nano.task(reward, vocab_size=128_256))
  b, p = c.prompts_per_step, 512
  batch = {"prompt": jax.ShapeDtypeStruct((b, p), "int32"),
           "prompt_mask": jax.ShapeDtypeStruct((b, p), "bool")}  # fmt: skip
  state = jax.eval_shape(method.init, jax.random.key(0))
  after, metrics = jax.eval_shape(method.step, state, batch, state.key)
  assert jax.tree.structure(after) == jax.tree.structure(state)
  rows = b * (c.samples_per_prompt + c.shaping.samples)
  assert metrics["rows"]["reward"].shape == (rows,)


@pytest.mark.claims
def test_the_claim_can_fail(tmp_path):
  """About a minute an arm: the broken variant in the place of LSC."""
  from rlreward import train

  found = {}
  for arm in (*STUDY.arms[:2], FILE["BROKEN"]):
    assert isinstance(arm, Arm)
    c = mini(**arm.overrides, seed=20)
    evals = train.run(c, tmp_path / arm.name).evals
    found[arm.name] = {f"last/{k}": v for k, v in evals[c.steps].items()}
  assert FILE["better"](found["lsc"], found["sum"])
  assert not FILE["better"](found["fixed"], found["sum"])
