"""The value function: a role of its own, or a head on the policy's trunk.

V(s_t) is read where the next token is predicted, before action t is taken. Its
head starts at zero, so that the first advantages are the rewards.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from rlreward import chain, errors
from rlreward.models import lora, transformer
from rlreward.models import score as score_lib
from rlreward.steps import checks, learned, roles
from rlreward.types import Array


class Critic(NamedTuple):
  """A value function beside a policy.

  Attributes:
    shared: whether it is a head on the policy's trunk.
    init: (key, params, frozen) -> params with the value function in them.
    values: (params, frozen, rows, share, hidden) -> f32[n, T]; `hidden` are
      the policy's states where the trunk is shared.
  """

  shared: bool
  init: Callable[..., dict[str, Any]]
  values: Callable[..., Array]


def make(config, actor: roles.Policy) -> Critic:
  """The critic that `config.critic` describes.

  Args:
    config: sections `critic` and `model`.
    actor: the policy; the critic starts from its weights.

  Raises:
    UserError: fields that cannot be, or warm-up of a head on a shared trunk.
  """
  c = config.critic
  rate = c.rate
  checks.ranges(
    "critic",
    (
      ("rate", rate, rate is None or rate > 0, "above 0, or None for"
       " that of the policy", "the critic would not learn"),
      ("coefficient", c.coefficient, c.coefficient > 0, "above 0",
       "the critic would not learn"),
      ("clip", c.clip, c.clip >= 0, "0 (off) or more", "it bounds a move"),
      ("warmup", c.warmup, c.warmup >= 0, "0 or more", "it counts steps"),
    ),
  )  # fmt: skip
  why = "a critic begins with the weights of another model"
  checks.choice("critic.start", c.start, ("policy", learned.ROLE), why)
  if c.shared and c.warmup:
    raise errors.UserError(
      f"critic.warmup={c.warmup} with critic.shared=True",
      "training the value head alone would move the trunk that the policy uses",
      "set critic.warmup=0 or critic.shared=False",
    )
  if c.start != "policy" and (c.shared or config.model.lora_rank):
    raise errors.UserError(
      f"critic.start={c.start!r} with critic.shared={c.shared},"
      f" model.lora_rank={config.model.lora_rank}",
      "the critic would have no weights of its own that could begin there",
      "set critic.start='policy', or critic.shared=False and model.lora_rank=0",
    )
  t = config.sampling.max_new_tokens
  if c.shared:
    return _shared(actor)
  return _own(config, actor, t)


def _head(model: transformer.Model, trunk: Mapping[str, Any]) -> dict:
  kind = jax.tree.leaves(trunk)[0].dtype
  return {"kernel": jnp.zeros((model.config.width, 1), kind)}


def _shared(actor: roles.Policy) -> Critic:
  def init(key, params, frozen):
    del key, frozen
    policy = params["policy"]
    head = {"score": _head(actor.model, policy)}
    if "params" in policy:
      policy = {**policy, "params": {**policy["params"], **head}}
    else:
      policy = {**policy, "value": head}
    return {**params, "policy": policy}

  def values(params, frozen, rows, share, hidden):
    del frozen, rows, share
    policy = params["policy"]
    tree = policy.get("params", policy.get("value"))
    return actor.model.score({"params": tree}, hidden)[..., 0]

  return Critic(True, init, values)


def _own(config, actor: roles.Policy, t: int) -> Critic:
  shape = actor.model.config.replace(outputs=1, tied=True)
  model = transformer.build(shape)

  if config.critic.start == learned.ROLE:
    _check_alike(config, model)

  def init(key, params, frozen):
    policy = params["policy"]
    if config.critic.start == learned.ROLE:
      own = jax.tree.map(jnp.copy, frozen[learned.ROLE]["model"])
    elif "params" in policy:
      trunk = {k: v for k, v in policy["params"].items() if k != "head"}
      tree = jax.tree.map(jnp.copy, trunk)
      own = {"params": {**tree, "score": _head(model, trunk)}}
    else:  # an adapter and a head of its own over the shared base
      base = frozen["base"]["params"]
      names = tuple(config.model.lora_targets)
      start = jax.random.fold_in(key, 3)
      adapter = lora.init(start, base, config.model.lora_rank, names)
      own = {"lora": adapter, "params": {"score": _head(model, base)}}
    return {**params, "critic": own}

  def values(params, frozen, rows, share, hidden):
    del hidden
    own = params["critic"]
    base = frozen["base"]["params"] if "lora" in own else {}
    tree = {k: v for k, v in base.items() if k != "head"}
    variables = {**own, "params": {**tree, **own["params"]}}
    x = score_lib.completion_hidden(
      model,
      variables,
      rows.tokens,
      rows.attend,
      rows.tokens.shape[1] - t,
      share,
    )
    return model.score(variables, x)[..., 0]

  return Critic(False, init, values)


def _check_alike(config, model: transformer.Model) -> None:
  found = chain.judge(config)
  if found is None:
    raise errors.UserError(
      "critic.start='reward' with learned.stage=0",
      "there is no reward model that the critic could begin with",
      "name its stage in learned.stage, or set critic.start='policy'",
    )
  shape = lambda m: jax.eval_shape(m.init, jax.random.key(0))["params"]
  other = shape(roles.policy(found.model).model)
  other = {**other, "score": shape(model)["score"]}
  if other != shape(model):
    raise errors.UserError(
      "critic.start='reward' and a reward model of another shape",
      "the critic is a model of the policy's shape",
      "give both stages the same model fields, or set critic.start='policy'",
    )
