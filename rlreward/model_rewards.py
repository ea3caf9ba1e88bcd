"""A trained reward model as the reward of an online run.

`reward.path` names its directory. The text of each sample is rendered by the
card of the model and scored on the host, between the two jitted halves of a
step, as `rlreward score --normalise` would score it; the policy may have
another tokenizer. Rules of `task.rewards` join in through `rewards.combine`.
The model lies on one device of each process, whole, and each process scores its
own share of the rows.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rlreward import reward_models, sharding
from rlreward.errors import UserError
from rlreward.models import ensemble_card, hf_files, reward_card
from rlreward.rewards import combine, members, shaping, values, view
from rlreward.types import Rollout, Score, Shaping, Task

MODEL, RULES = "model", "rules"  # components of the joined reward
_LOG = logging.getLogger(__name__)


class ModelReward:
  """(Rollout, batch) -> Score of a reward model; made by `load`.

  Components: `model`, (score - mean) / scale of the card, NaN where there is
  none; of an ensemble also `model/member/<k>` and `model/spread`; and `status`,
  see `rewards.values`: a row that is longer than the model reads, or empty,
  abstains. Nothing is cut, and no missing judgement is a reward of zero.

  Args:
    found: the model.
    task: has text; `spec["asked"]` gives the prompt of a row where it is not
      the text that the policy saw.
  """

  def __init__(self, found: reward_models.Loaded, task: Task):
    self.found = found
    self._tokenizer = task.spec["tokenizer"]
    self._asked = task.spec.get("asked")
    self._skip = task.spec.get("skip_special", True)

  def __call__(self, rollout: Rollout, batch: Mapping[str, Any]) -> Score:
    """Scores N rows.

    Raises:
      UserError: every row is too long, or a prompt that cannot be rendered.
    """
    rows = view.samples(rollout, batch, self._tokenizer, self._skip)
    limit = self.found.model.buckets[-1]
    ids: list[list[int]] = []
    places: list[int] = []
    sizes: list[int] = []
    for i, row in enumerate(rows):
      if not row.completion:
        continue
      own = self._encode(row)
      sizes.append(len(own))
      if len(own) <= limit:
        places.append(i)
        ids.append(own)
    if sizes and not ids:
      raise UserError(
        f"all {len(rows)} rows have {min(sizes)} tokens or more, and"
        f" {self.found.name} reads {limit}",
        "none of them gets a reward, and nothing is cut",
        f"set reward.max_length={max(sizes)}, or shorten the answers",
      )
    parts = self._values(ids, places, len(rows))
    known = np.isfinite(parts[MODEL])
    status = np.where(known, values.OK, values.ABSTAIN).astype(np.float32)
    value = np.where(known, parts[MODEL], 0).astype(np.float32)
    fields: Any = (value, known, None, {**parts, "status": status})
    return Score(*fields)

  def _encode(self, row: view.Sample) -> list[int]:
    """The ids that the model reads of a row, as in `rlreward score`."""
    prompt = self._asked(row.columns) if self._asked else row.prompt
    asked = {"prompt": prompt, "completion": row.completion}
    try:
      return self.found.encode(asked).found[0].ids
    except UserError as error:
      raise UserError(
        f"sample {row.index} for {self.found.name}: {error.what}",
        error.why,
        error.fix,
      ) from error

  def _values(
    self, ids: Sequence[Sequence[int]], places: Sequence[int], n: int
  ) -> dict[str, np.ndarray]:
    """{component: f32[n]}, NaN where a row was not scored."""
    model = self.found.model
    # One device of this process: others may score other rows at the same time.
    with jax.set_mesh(_alone()):
      if isinstance(model, members.Ensemble):
        each = model.members(ids)
        found = {MODEL: model.joined(each)}
        found |= {f"{MODEL}/member/{k}": r for k, r in enumerate(each)}
        alive = np.where(np.isfinite(each), each, np.nan)
        if len(ids):
          found[f"{MODEL}/spread"] = np.nanstd(alive, 0)
      else:
        found = {MODEL: model.normalised(model.scores(ids))}
    out = {}
    for name, part in found.items():
      out[name] = np.full(n, np.nan, np.float32)
      out[name][list(places)] = part
    return out


class Joined:
  """A reward model and the rules of a task as one reward; made by `with_model`.

  Args:
    model: the reward model's part.
    rules: reward functions of the task, or None.
    join: what makes one value of the components `model` and `rules`.
  """

  def __init__(self, model: ModelReward, rules: Any, join: Shaping):
    self.model, self.rules, self._join = model, rules, join

  def __call__(self, rollout: Rollout, batch: Mapping[str, Any]) -> Score:
    """Scores N rows."""
    score = self.model(rollout, batch)
    parts = dict(score.components)
    if self.rules is not None:
      ruled = self.rules(rollout, batch)
      if taken := sorted({*parts, RULES} & set(ruled.components) - {"status"}):
        raise UserError(
          f"a rule of task.rewards is called {taken[0]!r}",
          "the components of the reward model and of all rules have this name",
          "decorate it with @reward(name=...)",
        )
      theirs = ruled.components.get("status", np.float32(values.OK))
      status = np.maximum(parts["status"], theirs)
      value = np.where(ruled.valid, ruled.value, np.nan)
      parts = {**ruled.components, **parts, RULES: value, "status": status}
    named: Any = {k: jnp.asarray(v, jnp.float32) for k, v in parts.items()}
    start = Score(
      jnp.zeros(len(score.value)),
      jnp.ones(len(score.value), bool),
      None,
      named,
    )
    with jax.set_mesh(_alone()):
      joined, _ = self._join.update(start, self._join.init(), rollout)
    return jax.tree.map(np.asarray, joined)


def with_model(config: Any, task: Task) -> Task:
  """The task with the reward model that `reward.path` names, if any.

  `registry.task` calls it; a task that is made in Python and given to
  `train.run` is passed through it by hand.

  Args:
    config: the run's; see `reward` in `configs/common.py`.
    task: of text; its own rewards are the rules beside the model.

  Raises:
    UserError: a task without text, a directory without a card, a model that
      does not give its golden scores, or fields that cannot be.
  """
  c = config.get("reward", None)
  if not c or not c.path:
    return task
  judged = task.spec.get("judged", True)
  join = _join(c, judged)
  found = load(c.path, task, batch=c.batch, max_length=c.max_length or None)
  reward = Joined(found, task.reward if judged else None, join)
  spec = {**task.spec, "judged": True}
  return task._replace(reward=reward, spec=spec)


def load(
  path: str | os.PathLike[str],
  task: Task,
  *,
  batch: int = 16,
  max_length: int | None = None,
) -> ModelReward:
  """A reward model for the texts of a task, its golden scores checked.

  Args:
    path: the directory of a reward model or an ensemble.
    task: of text.
    batch: rows of a program.
    max_length: longest text, tokens; the card's if None.

  Raises:
    UserError: no card, or scores that are not those of the card.
  """
  if task.spec["on_device"] or task.spec.get("tokenizer") is None:
    raise UserError(
      f"reward model {path} on a task without text",
      "it reads text, and this task is judged by its tokens inside the"
      " compiled step",
      "use task.name='text', or name no reward model",
    )
  folder = hf_files.resolve(path)
  if ensemble_card.read(folder) is None and reward_card.read(folder) is None:
    raise UserError(
      f"{path} has no {reward_card.NAME}",
      "it says how texts are rendered, where the score is read and its mean"
      " and scale; unchecked scores are no reward",
      "train on what `rlreward export` writes, or make the card of a model"
      f" with `rlreward card --model={path} --input=answers.jsonl`",
    )
  with jax.set_mesh(_alone()):
    found = reward_models.load(path, batch=batch, max_length=max_length)
  model = found.model
  if not model.card.texts:
    raise UserError(
      f"{path} has no mean and scale of scores",
      "a reward is (score - mean) / scale, so that its size means something",
      "export the model from its run again, or write a card with"
      f" `rlreward card --model={path} --input=answers.jsonl`",
    )
  model.variables = jax.device_put(model.variables, jax.local_devices()[0])
  _LOG.info("reward model %s: %s", path, found.note)
  return ModelReward(found, task)


def _join(c: Any, ruled: bool) -> Shaping:
  """What joins the components, by the fields of `reward`."""
  if not ruled and c.gate:
    raise UserError(
      f"reward.gate={c.gate!r} without task.rewards",
      "it is a component of their reward, which must be above 0",
      "name the rule in task.rewards, or leave reward.gate empty",
    )
  names = (MODEL, RULES) if ruled else (MODEL,)
  own = tuple(float(w) for w in (c.weight, c.rules)[: len(names)])
  weights = None if set(own) == {1.0} else own
  parts = [combine.bounded((MODEL,), c.shape)] if c.shape else []
  parts.append(combine.aggregate(names, c.rule, weights))
  if c.gate:
    parts.append(combine.gated(c.gate, otherwise=c.otherwise))
  return shaping.chain(*parts)


def _alone() -> jax.sharding.Mesh:
  return sharding.make_mesh(1, 1, 1, jax.local_devices()[:1])
