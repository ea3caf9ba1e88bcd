"""Answers with K rewards at odds: what is loud in one of them harms the others.

The world of combined rewards (arXiv 2402.00742) with everything known. A prompt
favours one attribute and has a level. An answer is T tokens drawn alike: loud
ones of each attribute, shared ones that serve all, and neutral ones. Reward k:

  r_k(x, y) = scale(x) sum_t w_k[y_t] + shift(x, k)

so the sum of rewards is highest for the favoured attribute's loud tokens, while
only shared ones lift all K. At a low scale hardly any answer stands out: hard
prompts, which a method that chases the sum leaves behind. Rewards add up over
tokens, so the law of all K under the base is a list of counts of tokens.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from rlreward.errors import UserError
from rlreward.tasks import data, draws
from rlreward.types import Rollout, Score, Task

Build = Callable[[np.ndarray, np.random.Generator], dict[str, np.ndarray]]


def defaults() -> dict[str, Any]:
  """Fields of the task's config section."""
  return {
    "name": "attributes",
    "names": ("help", "harmless"),  # of the K rewards, components of the score
    "vocab": 8,  # K loud tokens, a shared one, the rest neutral
    "length": 6,  # T, tokens of an answer; no token ends it earlier
    "scales": (0.3, 0.7, 1.4, 2.5),  # of each level, hard to easy
    "loud": 4.0,  # reward of a loud token for its own attribute
    "harm": 0.5,  # and what it costs each other
    "shared": 0.7,  # reward of the shared token for every attribute
    "neutral": -0.7,  # and of neutral ones
    "favoured_share": 0.1,  # the base's share of the favoured loud token
    "other_share": 0.01,  # of each other loud token
    "shared_share": 0.1,  # of the shared token; neutral ones have the rest
    "shift": 4.0,  # of rewards, up and down by turns of level and attribute
    "quantile": 0.85,  # of the base's rewards, above which an answer is good
  }


class Law(NamedTuple):
  """Answers to X prompts by their counts of tokens: Y kinds of answers.

  Attributes:
    logp: f64[X, Y], of each under the base.
    reward: f64[X, Y, K].
    quantile: f64[X, K], reward that a share `quantile` of the base is at most.
    mean: f64[X, K], of the base.
    neutral: f64[X, K], reward of the answer without a loud or shared token.
  """

  logp: np.ndarray
  reward: np.ndarray
  quantile: np.ndarray
  mean: np.ndarray
  neutral: np.ndarray


def make(
  config: Any = None, *, process_index: int = 0, process_count: int = 1
) -> Task:
  """The task: reward is the sum of K rewards, gold is to be good in all.

  Batches hold `prompt` i32[B, 2] (favoured attribute, level), its mask and
  `kind` i32[B], the prompt's index; each prompt is as frequent as the others.
  Components of the reward are the K rewards, `<name>_reference`, the reward of
  the neutral answer, and `<name>_quantile`. Gold is 1 where all rewards are
  above their quantile; its components are `above/<name>`, `gain`, the sum of
  rewards over the base's mean, and `gain/<kind>`, NaN for other prompts.

  Args:
    config: section with the fields of `defaults`, None for all of them.
    process_index: this host.
    process_count: hosts; each makes its slice of a batch.

  Returns:
    Task whose reward can be compiled; its demonstrations are draws of the base.

  Raises:
    UserError: fields that cannot work.
  """
  c = _config(config)
  names, levels = c["names"], len(c["scales"])
  kinds = len(names) * levels
  known = law(c)
  p, w = shares(c), weights(c)
  shift = jnp.asarray(_shifts(c), jnp.float32)
  scale = jnp.tile(jnp.asarray(c["scales"], jnp.float32), len(names))
  each = jnp.asarray(w, jnp.float32)

  def rewards(rollout: Rollout, kind):
    action = rollout.action[..., None]
    total = jnp.sum(jnp.where(action, each[rollout.tokens], 0), 1)
    return scale[kind][:, None] * total + shift[kind]

  def reward(rollout: Rollout, batch: Mapping[str, Any]) -> Score:
    kind = jnp.asarray(batch["kind"])[rollout.group]
    r = rewards(rollout, kind)
    parts = {}
    for suffix, table in (
      ("", r),
      ("_reference", jnp.asarray(known.neutral, jnp.float32)[kind]),
      ("_quantile", jnp.asarray(known.quantile, jnp.float32)[kind]),
    ):
      parts |= {f"{n}{suffix}": table[:, k] for k, n in enumerate(names)}
    return Score(jnp.sum(r, 1), jnp.ones(r.shape[0], bool), None, parts)

  def gold(rollout: Rollout, batch: Mapping[str, Any]) -> Score:
    kind = jnp.asarray(batch["kind"])[rollout.group]
    r = rewards(rollout, kind)
    # Sums of the same tokens in another order differ by roundings.
    bar = jnp.asarray(known.quantile, jnp.float32)[kind]
    above = r > bar + 1e-3 * scale[kind][:, None]
    gain = jnp.sum(r - jnp.asarray(known.mean, jnp.float32)[kind], 1)
    parts = {f"above/{n}": above[:, k] for k, n in enumerate(names)}
    parts["gain"] = gain
    parts |= {
      f"gain/{i}": jnp.where(kind == i, gain, jnp.nan) for i in range(kinds)
    }
    value = jnp.all(above, 1)
    as_float = {k: v.astype(jnp.float32) for k, v in parts.items()}
    return Score(
      value.astype(jnp.float32), jnp.ones(value.shape, bool), None, as_float
    )

  def prompts(kind, generator):
    del generator
    two = np.stack([kind // levels, kind % levels], 1).astype(np.int32)
    mask = np.ones(two.shape, bool)
    return {"prompt": two, "prompt_mask": mask, "kind": kind.astype(np.int32)}

  def demonstrations(kind, generator):
    rows = prompts(kind, generator)
    u = generator.random((len(kind), c["length"], 1))
    edges = np.cumsum(p[kind // levels], -1)[:, None]
    drawn = np.minimum((u > edges).sum(-1), c["vocab"] - 1)
    tokens = np.concatenate([rows["prompt"], drawn], 1).astype(np.int32)
    loss = np.ones(tokens.shape, bool)
    loss[:, :2] = False
    return {"tokens": tokens, "attend": np.ones(tokens.shape, bool),
            "loss": loss}  # fmt: skip

  def stream(build: Build):
    def even(size, generator):
      first = generator.integers(kinds)
      kind = (first + np.arange(size)) % kinds
      return build(generator.permutation(kind), generator)

    digest = draws.digest(c)
    return lambda split, batch_size, seed: draws.Draws(
      even, split, batch_size, seed, digest, process_index, process_count
    )

  spec = {
    "vocab_size": c["vocab"],
    "prompt_length": 2,
    "completion_length": c["length"],
    "stop_ids": (),
    "pad_id": 0,
    "on_device": True,
    "tokenizer": None,
    "columns": ("kind",),
    "kinds": kinds,
  }
  return Task(stream(prompts), reward, gold, spec, stream(demonstrations))


def weights(config: Any = None) -> np.ndarray:
  """w f64[V, K]: what each token is worth to each attribute, before the scale.

  Args:
    config: section with the fields of `defaults`.
  """
  c = _config(config)
  k = len(c["names"])
  w = np.full((c["vocab"], k), float(c["neutral"]))
  w[:k] = -c["harm"]
  np.fill_diagonal(w[:k], c["loud"])
  w[k] = c["shared"]
  return w


def shares(config: Any = None) -> np.ndarray:
  """f64[K, V]: the base's law of a token where attribute k is favoured.

  Args:
    config: section with the fields of `defaults`.
  """
  c = _config(config)
  k, v = len(c["names"]), c["vocab"]
  p = np.zeros((k, v))
  p[:, :k] = c["other_share"]
  np.fill_diagonal(p[:, :k], c["favoured_share"])
  p[:, k] = c["shared_share"]
  p[:, k + 1 :] = (1 - p.sum(1, keepdims=True)) / (v - k - 1)
  return p


def law(config: Any = None) -> Law:
  """All answers and their rewards under the base; prompts in order of `kind`.

  Args:
    config: section with the fields of `defaults`.
  """
  c = _config(config)
  k, t = len(c["names"]), c["length"]
  classes = k + 2  # loud of each, shared, neutral
  bars = itertools.combinations(range(t + classes - 1), classes - 1)
  edges = np.asarray([(-1, *b, t + classes - 1) for b in bars])
  counts = np.diff(edges, axis=1) - 1
  p, w = shares(c), weights(c)[:classes]
  merged = np.concatenate([p[:, : k + 1], p[:, k + 1 :].sum(1)[:, None]], 1)
  ways = math.lgamma(t + 1) - np.vectorize(math.lgamma)(counts + 1.0).sum(1)
  logp = np.repeat(ways + np.log(merged) @ counts.T, len(c["scales"]), 0)
  scale = np.tile(c["scales"], k)[:, None, None]
  reward = scale * (counts @ w) + _shifts(c)[:, None]
  chance = np.exp(logp)
  order = np.argsort(reward, 1, kind="stable")
  below = np.cumsum(np.take_along_axis(chance[..., None], order, 1), 1)
  place = np.argmax(below >= c["quantile"] - 1e-12, 1)[:, None]
  ranked = np.take_along_axis(reward, order, 1)
  return Law(
    logp,
    reward,
    np.take_along_axis(ranked, place, 1)[:, 0],
    np.einsum("xy,xyk->xk", chance, reward),
    reward[:, counts[:, -1] == t][:, 0],
  )


def _shifts(c: Mapping[str, Any]) -> np.ndarray:
  """f64[X, K]: Bradley-Terry rewards are known up to a shift of each prompt."""
  k, levels = len(c["names"]), len(c["scales"])
  level = np.tile(np.arange(levels), k)[:, None]
  return c["shift"] * (-1.0) ** (level + np.arange(k))


def _config(config: Any) -> dict[str, Any]:
  c = data.section(config, defaults())
  k, v = len(c["names"]), c["vocab"]
  if not k or len(set(c["names"])) < k:
    raise UserError(
      f"names={tuple(c['names'])!r}",
      "each reward is a component of the score",
      "use one or more different names",
    )
  if not isinstance(v, int) or v < max(k + 2, len(c["scales"])):
    raise UserError(
      f"vocab={v!r} with {k} names and {len(c['scales'])} scales",
      f"{k} loud tokens, a shared and a neutral one, and one for each level",
      f"use {max(k + 2, len(c['scales']))} or more",
    )
  if not isinstance(c["length"], int) or not 1 <= c["length"] <= 32:
    raise UserError(
      f"length={c['length']!r}",
      "it is a number of tokens, and all counts of them are listed",
      "use 1 to 32",
    )
  if not c["scales"] or not all(s > 0 for s in c["scales"]):
    raise UserError(
      f"scales={tuple(c['scales'])!r}",
      "each level has its own",
      "use positive numbers",
    )
  parts = (c["favoured_share"], c["other_share"], c["shared_share"])
  used = parts[0] + (k - 1) * parts[1] + parts[2]
  if min(parts) <= 0 or used >= 1:
    raise UserError(
      f"favoured_share={parts[0]}, other_share={parts[1]},"
      f" shared_share={parts[2]} take {used:g} of a token's law",
      "every token happens, neutral ones with what is left",
      "use positive shares that leave some",
    )
  if not 0 < c["quantile"] < 1:
    raise UserError(
      f"quantile={c['quantile']!r}", "it is a share", "use 0.85 or the like"
    )
  return c
