"""PAR: what the claim asks, links, refusals.

The closed form of heavy tails is in test_shaping_experiment.py.
"""

import math

import jax
import jax.numpy as jnp
import nano
import numpy as np
import pytest
from scipy.special import expit
from tilts import spent

from rlreward import config as config_lib
from rlreward import errors, registry
from rlreward.configfile import execute, find
from rlreward.methods import par
from rlreward.rewards import applied
from rlreward.tasks import biased

SPEC = "configs/par.py"
STUDY = config_lib.study(SPEC)
FILE = vars(execute(find(SPEC)))


def mini(**changes):
  return config_lib.replace(config_lib.load(f"{SPEC}:mini"), changes)


def arms():
  return {a.name: a.overrides for a in (*STUDY.arms, FILE["BROKEN"])}


# ------------------------------------------------------------ the claim
def optima(df=2.0):
  """Evaluations of the arms' optima in the config's world, as a record has."""
  c = mini(**{"task.df": df})
  law, found = biased.law(c.task), {}
  p = np.exp(law.logp)
  for name in arms():
    s = law.reward
    if name in ("par", "slow"):  # over all answers of the reference
      shift = 3.0 * (name == "slow")
      gap = law.reward[:, :, None] - shift - law.reward[:, None]
      s = np.einsum("xym,xm->xy", expit(gap), p)
    q, kl, _ = spent(law.logp, s, FILE["NATS"])
    gold = (q * law.gold).sum(1).mean()
    found[name] = {"last/exact_kl": kl, "last/exact_gold": gold}
  return found


def test_the_claim_is_true_of_the_optima_and_not_of_the_broken_variant():
  exact = optima()
  assert STUDY.claim(exact)
  assert not STUDY.claim({**exact, "par": exact["mean_std"]})
  dear = {"last/exact_kl": 1.3 * FILE["NATS"], "last/exact_gold": 2.0}
  assert not STUDY.claim({**exact, "par": dear})  # another KL


def test_in_the_config_s_world_thin_tails_cost_little():
  exact = optima(df=30.0)
  lost = exact["raw"]["last/exact_gold"] - exact["par"]["last/exact_gold"]
  assert 0 <= lost <= 0.08
  assert not STUDY.claim(exact)  # nothing to be won there


# ------------------------------------------------------------ the shapes
def apply(reward, refs, length=None, **changes):
  """Values f32[N] that the section makes of rewards."""
  c = nano.config(**{f"shaping__{k}": v for k, v in changes.items()}).shaping
  return np.asarray(applied.values(par.shaper(c), reward, refs, length))


R, REFS = np.array([-2.0, 0.5, 6.0]), np.array([-1.0, 1.0])
GAP = R[:, None] - REFS


@pytest.mark.parametrize(
  ("changes", "want"),
  [
    ({"link": "preference"}, expit(GAP).mean(1)),
    ({"link": "preference", "shift": 3.0}, expit(GAP - 3).mean(1)),
    ({"link": "preference", "temperature": 2.0}, expit(GAP / 2).mean(1)),
    ({"link": "preference", "shape": "tanh"}, np.tanh(GAP).mean(1)),
    ({"link": "preference", "ceiling": 0.0},
     expit(np.minimum(R, 0)[:, None] - REFS).mean(1)),
    ({"link": "sum"}, R),
    ({"link": "sum", "ceiling": 1.0}, np.minimum(R, 1)),
    ({"link": "centred"}, R - REFS.mean()),
    ({"link": "bounded"}, expit(R)),
    ({"link": "mean_std"}, (R - R.mean()) / R.std()),
    ({"link": "minmax"}, (R + 2) / 8),
    ({"link": "clip"},
     np.clip(R, R.mean() - R.std(), R.mean() + R.std())),
    ({"link": "lsc", "quantile": 0.5},
     np.log(expit(R - np.median(REFS)))),
    ({"link": "log_sigmoid"}, np.log(expit(R))),
    ({"link": "log_sigmoid", "shift": 0.5, "temperature": 2.0},
     np.log(expit((R - 0.5) / 2))),
  ],
  ids=lambda x: "-".join(map(str, x.values())) if isinstance(x, dict) else "",
)  # fmt: skip
def test_each_shape_by_hand(changes, want):
  found = apply(R, REFS, samples=len(REFS), **changes)
  np.testing.assert_allclose(found, want, rtol=2e-5, atol=1e-6)  # f32


def test_long_answers_pay_before_the_shape():
  plain = dict(link="preference", samples=2)
  found = apply(R, REFS, [2, 3, 8], long=3, long_price=0.5, **plain)
  want = expit((R - [0, 0, 2.5])[:, None] - REFS).mean(1)
  np.testing.assert_allclose(found, want, rtol=2e-5)


# ------------------------------------------------------------ the method
def made(task=None, **changes):
  c = nano.config(**{"shaping__link": "preference", **changes})
  method = par.make(c, task or nano.task())
  return method, jax.eval_shape(method.init, jax.random.key(0))


@pytest.mark.parametrize("baseline", ["", "group"])
def test_ppo_and_grpo_draw_references_only_where_they_are_read(baseline):
  for link, more in (("preference", 3), ("sum", 0)):
    method, state = made(shaping__link=link, shaping__samples=3,
                         credit__baseline=baseline)  # fmt: skip
    after, metrics = jax.eval_shape(
      method.step, state, nano.batch(), jax.random.key(0)
    )
    assert jax.tree.structure(after) == jax.tree.structure(state)
    assert metrics["rows"]["reward"].shape == (nano.B * (nano.G + more),)
    assert ("reference" in method.reads) == bool(more)
    assert ("critic" in state.params) == (not baseline)


@pytest.mark.parametrize(
  ("changes", "word"),
  [
    ({"shaping__link": "product"}, "link"),
    ({"shaping__shape": "step"}, "shape"),
    ({"shaping__samples": 0}, "samples"),
    ({"shaping__temperature": 0.0}, "temperature"),
    ({"shaping__shift": math.inf}, "shift"),
    ({"shaping__ceiling": math.nan}, "ceiling"),
    ({"shaping__long_price": -1.0}, "long_price"),
    ({"credit__baseline": "batch"}, "baseline"),
  ],
)
def test_what_cannot_be_is_refused_before_anything_compiles(changes, word):
  with pytest.raises(errors.UserError, match=word):
    made(**changes)


@pytest.mark.parametrize("arm", sorted(arms()))
def test_arms_are_made(arm):
  c = mini(**arms()[arm], **{"prompts_per_step": 8})
  task = registry.task(c)
  method = par.make(c, task)
  state = jax.eval_shape(method.init, jax.random.key(0))
  batch = jax.tree.map(jnp.asarray, next(task.batches("train", 8, 0)))
  after, _ = jax.eval_shape(method.step, state, batch, state.key)
  assert jax.tree.structure(after) == jax.tree.structure(state)


def test_the_size_of_the_paper_builds_without_memory():
  c = config_lib.load(f"{SPEC}:pod")
  shape = {"path": "", "vocab": 256_000, "width": 2304, "layers": 26,
           "heads": 8, "kv_heads": 4, "head_dim": 256, "mlp": 9216,
           "tied": True}  # fmt: skip
  c = config_lib.replace(c, {f"model.{k}": v for k, v in shape.items()})
  method = par.make(c, nano.task(vocab_size=256_000))
  b, p = c.prompts_per_step, 512
  batch = {"prompt": jax.ShapeDtypeStruct((b, p), "int32"),
           "prompt_mask": jax.ShapeDtypeStruct((b, p), "bool")}  # fmt: skip
  state = jax.eval_shape(method.init, jax.random.key(0))
  after, metrics = jax.eval_shape(method.step, state, batch, state.key)
  assert jax.tree.structure(after) == jax.tree.structure(state)
  assert metrics["rows"]["reward"].shape == (b * (1 + c.shaping.samples),)


@pytest.mark.claims
def test_the_claim_can_fail(tmp_path):
  """Trains PAR and the broken variant: one keeps its gold, one does not."""
  from rlreward import train

  found = {}
  for name in ("par", "mean_std", "raw"):
    c = mini(**arms()[name], seed=20)
    evals = train.run(c, tmp_path / name).evals
    found[name] = {f"last/{k}": v for k, v in evals[c.steps].items()}
  assert FILE["better"](found["par"], found["raw"], 0.15)
  assert not FILE["better"](found["mean_std"], found["raw"], 0.15)
