"""The pipeline of summaries: what it refuses, its critic, its claim."""

import jax
import nano
import numpy as np
import pytest

from configs import summarize as configs
from rlreward import chain, config, errors, registry
from rlreward.tasks import biased

STAGES = {
  "learned__stage": 1,
  "kl_reward__beta": 0.1,
  "start": {"algorithm": "reward_model", "model": {"outputs": 1}},
}


def made(**changes):
  c = nano.config(algorithm="summarize", **{**STAGES, **changes})
  return registry.algorithm("summarize").make(c, nano.task())


@pytest.mark.parametrize(
  ("changes", "said"),
  [
    ({"learned__stage": 0}, "learned.stage=0 with"),
    ({"kl_reward__beta": 0.0}, "kl_reward.beta=0 with"),
    ({"critic__start": "rewards"}, "critic.start='rewards'"),
    ({"critic__start": "reward", "critic__shared": True}, "shared=True"),
    ({"critic__start": "reward", "model__lora_rank": 2}, "lora_rank=2"),
    ({"learned__references": 8}, "no demonstrations"),
  ],
  ids=str,
)
def test_a_pipeline_with_a_part_missing_is_refused(changes, said):
  with pytest.raises(errors.UserError, match=said):
    made(**changes)


def test_a_critic_of_another_shape_is_refused():
  other = {**STAGES["start"], "critic": {"start": "policy"}}
  other["model"] = {"outputs": 1, "layers": 1}
  with pytest.raises(errors.UserError, match="of another shape"):
    made(critic__start="reward", start=other)


def test_the_critic_begins_with_the_reward_model():
  start = {**STAGES["start"], "critic": {"start": "policy"}}
  found = jax.jit(made(critic__start="reward", start=start).init)
  state = found(jax.random.key(0))
  same = jax.tree.map(
    lambda a, b: bool((a == b).all()),
    state.params["critic"],
    state.frozen["reward"]["model"],
  )
  assert all(jax.tree.leaves(same))
  plain = jax.jit(made().init)(jax.random.key(0))
  assert not np.asarray(
    plain.params["critic"]["params"]["score"]["kernel"]
  ).any()


def test_stages_of_the_config():
  names = ("sft", "reward_model", "summarize")
  for size in configs.PRESETS:
    every = chain.stages(config.load(f"configs/summarize.py:{size}"))
    assert tuple(c.algorithm for c in every) == names
    assert [c.model.outputs for c in every] == [0, 1, 0]
    assert chain.judge(every[2]) == every[1] and chain.parent(every[2]) == 1
  for arm in (*configs.ARMS, configs.BROKEN):
    config.replace(config.load("configs/summarize.py:mini"), arm.overrides)


def test_the_spread_is_that_of_the_world():
  law = biased.law(config.load("configs/summarize.py:mini").task)
  p = np.exp(law.logp) / len(law.logp)
  mean = np.sum(p * law.gold)
  spread = np.sqrt(np.sum(p * (law.gold - mean) ** 2))
  assert spread == pytest.approx(configs.SPREAD, abs=1e-3)


def arm(gold, proxy):
  """An arm with one run that was evaluated along these."""
  evals = {
    str(10 * i): {"reward": g, "proxy": p}
    for i, (g, p) in enumerate(zip(gold, proxy, strict=True))
  }
  return {
    "first/reward": gold[0],
    "last/reward": gold[-1],
    "runs": [
      {"evals": evals, "last": {"reward": gold[-1], "proxy": proxy[-1]}}
    ],
  }


def test_the_claim_by_hand():
  good = arm([-0.3, 1.0, 1.5], [0, 1, 2])
  overdone = arm([-0.3, 1.5, 1.0], [0, 1, 2])
  assert configs.claim({"summarize": good, "few": overdone})
  # Gold that goes on rising, a proxy that falls with it, and no gain at all.
  assert not configs.claim({"summarize": good, "few": good})
  falling = arm([-0.3, 1.5, 1.0], [0, 2, 1])
  assert not configs.claim({"summarize": good, "few": falling})
  still = arm([-0.3, 0.0, 0.1], [0, 1, 2])
  assert not configs.claim({"summarize": still, "few": overdone})
