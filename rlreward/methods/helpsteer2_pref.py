"""A reward model from ratings first and from preferences with strengths then.

  stage 1   L = sum_k [y_k known] (r_k - y_k)^2 / sum_k [y_k known]
  stage 2   L = -m log sigma(r(y_w) - r(y_l)),  m = 1, 2, 3 the strength
  weights   theta = theta_1 + alpha (theta_2 - theta_1),  alpha > 1 (ExPO)

Ratings are `reward_model.kind=mse`, the earlier stage in `start`. The pairs'
loss is regular by default, with `reward_model.margin` it is -log sigma(d - m),
and with `preference.strength` it is scaled by m as above. Pairs of strength 0
have no preference: they leave every loss (the released code's `scaled` gives
them no gradient either, its other two learn a direction that is arbitrary).
`held/accuracy` is on held-out rows 2i and 2i + 1 of one prompt by their `gold`,
`held/accuracy/expo/<alpha>` the same with the weights of each of
`reward_model.expo`.

Reference: HelpSteer2-Preference: Complementing Ratings with Preferences, arXiv
2410.01257.
Differs from the paper: one output for the one attribute that is used, where its
head has nine; a mean over pairs with a preference.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import jax

from rlreward import errors
from rlreward.ops import steer
from rlreward.steps import checks, fit, objective, rank, roles
from rlreward.types import Array, Method, State, Task


def make(config, task: Task) -> Method:
  """Either stage, and what lies beyond the second."""
  check(config)
  rank.check(config)
  rank.check_labels(config, task)
  actor, slots = roles.policy(config.model), fit.slots(task)
  paired = config.reward_model.kind in rank.PAIRED
  if paired:
    read = rank.pairs(config, actor, slots)._replace(prepare=preferred)
  else:
    read = rank.singles(config, actor, slots)
  method = fit.make(
    config,
    task,
    actor,
    read,
    source="preferences" if paired else "labelled",
    sampled=False,
  )
  alphas, plain = tuple(config.reward_model.expo), method.held
  assert plain is not None

  def init(key, variables=None, given=None) -> State:
    state = method.init(key, variables, given)
    if not alphas:
      return state
    return state._replace(
      frozen={**state.frozen, "start": actor.snapshot(state.params)}
    )

  @jax.jit
  def held(state: State, batch: Mapping[str, Array]):
    found = dict(plain(state, batch))
    if "gold" not in batch:
      return found
    trees: dict[str, Any] = {"": state.params["policy"]}
    for alpha in alphas:
      end = steer.expo(state.frozen["start"], state.params["policy"], alpha)
      trees[f"/expo/{alpha:g}"] = end
    for name, tree in trees.items():
      variables = actor.variables({"policy": tree}, state.frozen)
      each = rank.scores(actor, variables, batch, slots, 1)
      score = rank.at_end(each, batch, slots)[:, 0]
      found[f"accuracy{name}"] = steer.gold_accuracy(score, batch["gold"])
    return found

  return method._replace(init=init, held=held)


def preferred(compute, rows, state):
  """Rows whose pairs of strength 0 are not valid; any strength is then 1."""
  del compute
  if "strength" not in rows:
    return rows, state
  known = objective.valid(rows) & (rows["strength"] != 0)
  return {**rows, "valid": known}, state


def check(config) -> None:
  """Refuses weights that cannot be.

  Raises:
    UserError: see the messages.
  """
  alphas = tuple(config.reward_model.expo)
  checks.ranges(
    "reward_model",
    tuple(
      ("expo", a, 0 <= a < math.inf, "0 or more",
       "1 is the end of training and above it is beyond")
      for a in alphas
    ),
  )  # fmt: skip
  if alphas and config.model.lora_rank:
    raise errors.UserError(
      f"reward_model.expo={alphas} with model.lora_rank="
      f"{config.model.lora_rank}",
      "an adapter is a product: its factors do not add up as weights do",
      "set reward_model.expo=() or model.lora_rank=0",
    )
