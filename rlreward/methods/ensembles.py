"""Ensembles of reward models: members that differ in two kinds of seeds.

  L_k = -log sigma(r_k(y_w) - r_k(y_l)) + eta (r_k(y_w) + r_k(y_l))^2
  r = rule(r_1, ..., r_K), rule = mean | median | min | mean - coef std | uwo

Members are a grid of P pretraining seeds with F fine-tuning seeds each
(section `ensemble`), trained side by side as if each were alone. Without a
score head (`model.outputs=0`) the members are language models: that is the
first stage, which pretrains one for each pretraining seed. Held-out answers
without a label (column `answer`) are chosen among by every member alone
(single), by ensembles that share a pretraining seed (finetune), that share none
(pretrain) and by all: `<column>/<kind>/<n>` is what the best of n of them has,
for the columns `gold` and `list` of the data.

Reference: Helping or Herding? Reward Model Ensembles Mitigate but do not
Eliminate Reward Hacking, arXiv 2312.09244.
Differs from the paper: the members' shift is taken off over answers as well,
and choices are over all subsets of n, without drawing any.
"""

from __future__ import annotations

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from rlreward.algorithms import reward_model, sft
from rlreward.evals import ensembles
from rlreward.models import ensemble as members
from rlreward.models import ensemble_card
from rlreward.ops import aggregate
from rlreward.steps import ensemble, fit, roles
from rlreward.types import Array, Method, State, Task

SIZES = (4, 16, 64)
COLUMNS = ("gold", "list")


def make(config, task: Task) -> Method:
  """P x F reward models, or language models where there is no score head."""
  c = config.ensemble
  card = ensemble_card.EnsembleCard([ensemble_card.Member("")], c.rule, c.coef)
  ensemble_card.check(card, "ensemble")
  if not config.model.outputs:
    return ensemble.make(config, task, sft.make)
  method = ensemble.make(config, task, reward_model.make)
  assert method.held is not None
  plain, actor, slots = method.held, roles.policy(config.model), fit.slots(task)

  @jax.jit
  def free(state: State, rows: Mapping[str, Array]):
    read = {k: rows[k] for k in ("tokens", "attend")}
    score = ensemble.scores(actor, state, read, slots, c.chunk)
    return judged(score, {k: rows[k] for k in COLUMNS if k in rows}, c)

  def held(state: State, batch: Mapping[str, Array]):
    found = dict(plain(state, batch))
    if "answer" in batch:
      own = np.flatnonzero(np.asarray(batch["answer"]))
      found |= free(state, {k: v[own] for k, v in batch.items()})
    return found

  return method._replace(held=held)


def judged(score_KxM: Array, values: Mapping[str, Array], c) -> dict:
  """{metric: (value, 1)} of the members' scores of M answers.

  Args:
    score_KxM: in the order of the grid.
    values: {column: [M]}, `gold` among them.
    c: config section `ensemble`.
  """
  p, f = c.pretrain, c.finetune
  values = {k: jnp.asarray(v, jnp.float32) for k, v in values.items()}
  sizes = [n for n in SIZES if n <= score_KxM.shape[1]]
  sets = {
    "single": np.arange(p * f)[:, None],
    "finetune": members.finetune_members(p, f),
    "pretrain": members.pretrain_members(p, f),
    "all": np.arange(p * f)[None],
  }
  found = {}
  for kind, places in sets.items():
    score = ensembles.joined(score_KxM, places, c.rule, c.coef)
    for name, value in ensembles.chosen(score, values, sizes).items():
      column, n = name.split("/")
      found[f"{column}/{kind}/{n}"] = value
    if sizes:
      at = ensembles.expected(score, values["gold"], sizes[-1])
      found[f"gaussian/{kind}/{sizes[-1]}"] = at
  rule: aggregate.Rule
  for rule in ensemble_card.RULES:
    score = ensembles.joined(score_KxM, sets["pretrain"], rule, c.coef)
    chosen = ensembles.chosen(score, {rule: values["gold"]}, sizes[-1:])
    found |= {f"rule/{k}": v for k, v in chosen.items()}
  if p > 1 and f > 1:
    shares = ensembles.parts(score_KxM, p, f)
    found |= {f"variance/{k}": v for k, v in shares.items()}
  for column, value in values.items():
    found[f"{column}/base"] = jnp.mean(value)
  return {k: (v, jnp.ones(())) for k, v in found.items()}
