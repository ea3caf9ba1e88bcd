"""A gold reward and a proxy that errs in known ways: where to watch hacking.

A prompt is a topic. An answer is up to T tokens: on the topic, off it, filler
or spurious; the stop token ends it earlier. Gold adds up what tokens are worth.
The proxy is what a reward model would make of it:

  r_k = gold + length_bias n + attribute_bias #spurious
        + sum_t own_k[y_t] + tail t_df(y, k),      r = rule(r_1, ..., r_K)

The two biases are shared by all K members of an ensemble; the error of each
token and that of each whole answer (Student's t: heavy tails) are a member's
own. On-topic tokens raise both rewards; the spurious one is rare in the base,
so that its bias pays late: gold rises with the KL, and then falls. The answers
are few enough to be listed, so the law of any policy over both is exact.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rlreward.errors import UserError
from rlreward.ops import aggregate
from rlreward.tasks import biased_rows as rows
from rlreward.tasks import data, draws
from rlreward.types import Outcomes, Rollout, Score, Task

_MOST = 20_000  # answers to a prompt that are listed
KINDS = ("on_topic", "off_topic", "filler", "spurious")


def defaults() -> dict[str, Any]:
  """Fields of the task's config section."""
  return {
    "name": "biased",
    "topics": 2,  # prompts, each with a token of its own
    "length": 6,  # T, most tokens of an answer
    "stop": 0.15,  # the base's chance of the stop token at each slot
    "shares": (0.2, 0.2, 0.58, 0.02),  # else: on topic, off it, filler,
    "worth": (1.0, -1.0, -0.2, -0.5),  # spurious; and the gold of each
    "length_bias": 0.0,  # what the proxy adds for each token
    "attribute_bias": 2.0,  # and for each spurious one
    "own": 0.0,  # deviation of a member's own error in each token's worth
    "tail": 0.0,  # scale of a member's error for each whole answer
    "df": 2.0,  # degrees of freedom of that error; small is heavy-tailed
    "members": 1,  # K, of the ensemble
    "rule": "mean",  # how they are joined, see ops/aggregate.py
    "coef": 1.0,  # of the spread (mean_minus_std, uwo)
    "pairs": 0,  # comparisons there are, the same in every epoch; 0: no end
    "judge": "gold",  # who compares: gold | biased, with both shared biases
    "temperature": 1.0,  # of a comparison, in units of the reward; 0: none
    "flip": 0.0,  # share of labels that are turned around
    "world": 0,  # seed of the members' own errors
  }


class Law(NamedTuple):
  """All Y answers to each of X topics.

  Attributes:
    tokens: i32[Y, T], each with its stop token; the same for every topic.
    mask: bool[Y, T], tokens that are there.
    logp: f64[X, Y], under the base.
    reward: f64[X, Y], the proxy.
    gold: f64[X, Y].
    members: f64[X, Y, K], proxies of the members.
  """

  tokens: np.ndarray
  mask: np.ndarray
  logp: np.ndarray
  reward: np.ndarray
  gold: np.ndarray
  members: np.ndarray


def make(
  config: Any = None, *, process_index: int = 0, process_count: int = 1
) -> Task:
  """The task: the reward is the proxy, gold is what is wanted.

  Batches hold `prompt` i32[B, 1], the topic's token, and its mask; each topic
  is as frequent as the others. Components of the reward are `gold`, `bias/
  length`, `bias/attribute` and `error`, which add up to it, and with several
  members `member_<k>`. Those of gold are `tokens/<kind>`, counts. Held-out
  pairs are labelled by gold without noise; `valid` is false where both answers
  are the same, or as good where they are held out.

  Args:
    config: section with the fields of `defaults`, None for all of them.
    process_index: this host.
    process_count: hosts; each makes its slice of a batch.

  Returns:
    Task whose rewards can be compiled; demonstrations are draws of the base.

  Raises:
    UserError: fields that cannot work.
  """
  c = _config(config)
  judge = scorer(c)

  def read(rollout: Rollout):
    answer = rollout.action & (rollout.tokens != rows.STOP)
    tokens = jnp.where(answer, rollout.tokens, rows.STOP)
    # The prompt is the first slot of all.
    return tokens[:, 1:], rollout.tokens[:, 0] - 1

  def reward(rollout: Rollout, batch: Mapping[str, Any]) -> Score:
    del batch
    found = judge(*read(rollout))
    parts = {
      "gold": found["gold"],
      "bias/length": found["length"],
      "bias/attribute": found["attribute"],
    }
    parts["error"] = found["value"] - sum(parts.values())
    if c["members"] > 1:
      parts |= {
        f"member_{k}": found["members"][:, k] for k in range(c["members"])
      }
    return Score(found["value"], jnp.isfinite(found["value"]), None, parts)

  def gold(rollout: Rollout, batch: Mapping[str, Any]) -> Score:
    del batch
    tokens, topic = read(rollout)
    found = judge(tokens, topic)
    kind = jnp.asarray(rows.kinds(c))[topic[:, None], tokens]
    parts = {
      f"tokens/{name}": jnp.sum(kind == i, 1).astype(jnp.float32)
      for i, name in enumerate(KINDS)
    }
    value = found["gold"]
    return Score(value, jnp.ones(value.shape, bool), None, parts)

  digest = draws.digest(c)

  def stream(build, finite=None):
    return lambda split, batch_size, seed: draws.Draws(
      lambda n, rng: build(c, split, n, rng), split, batch_size, seed, digest,
      process_index, process_count, finite,
    )  # fmt: skip

  spec: dict[str, Any] = {
    "vocab_size": rows.vocab(c),
    "prompt_length": 1,
    "completion_length": c["length"],
    "answer_length": c["length"],
    "demonstrated": c["length"],
    "stop_ids": (rows.STOP,),
    "pad_id": rows.STOP,
    "on_device": True,
    "tokenizer": None,
  }
  if _count(c) <= _MOST:
    known = functools.cache(lambda: law(c))
    spec["outcomes"] = lambda batch: _outcomes(known(), batch)
  given = None
  if c["pairs"]:
    given = lambda seed: rows.finite(c, seed)
  return Task(
    stream(rows.prompts),
    reward,
    gold,
    spec,
    stream(rows.demonstrations),
    stream(rows.preferences, given),
  )


def scorer(config: Any = None):
  """(tokens i32[N, T], topic i32[N]) -> what an answer earns, by parts.

  Tokens from the stop on are the stop token. The parts are f32[N] `gold`,
  `length`, `attribute`, `value`, the proxy, and `members` f32[N, K].

  Args:
    config: section with the fields of `defaults`.
  """
  c = _config(config)
  worth = jnp.asarray(rows.worth(c), jnp.float32)
  own = jnp.asarray(rows.own(c), jnp.float32)  # [K, X, V]
  spurious, v = rows.vocab(c) - 1, rows.vocab(c)

  def tails(code, topic):
    """Student's t, the same whenever the same answer is read."""
    key = jax.random.key(c["world"])

    def one(k, code, topic):
      place = jax.random.fold_in(jax.random.fold_in(key, k), topic)
      return jax.random.t(jax.random.fold_in(place, code), c["df"])

    member = jnp.arange(c["members"])
    each = jax.vmap(one, (0, None, None))
    return jax.vmap(each, (None, 0, 0))(member, code, topic)

  def score(tokens, topic) -> dict[str, Any]:
    there = tokens != rows.STOP
    add_up = lambda table: jnp.sum(
      jnp.where(there, table[topic[:, None], tokens], 0), 1
    )
    base = {
      "gold": add_up(worth),
      "length": c["length_bias"] * jnp.sum(there, 1).astype(jnp.float32),
      "attribute": c["attribute_bias"]
      * jnp.sum(tokens == spurious, 1).astype(jnp.float32),
    }
    error = jnp.stack([add_up(own[k]) for k in range(c["members"])], 1)
    if c["tail"]:
      power = jnp.asarray(_powers(v, tokens.shape[1]))
      code = jnp.sum(tokens.astype(jnp.uint32) * power, 1, dtype=jnp.uint32)
      error += c["tail"] * tails(code, topic)
    shared = base["gold"] + base["length"] + base["attribute"]
    members = shared[:, None] + error
    value = aggregate.aggregate(members, c["rule"], coef=c["coef"])
    return {**base, "members": members, "value": value}

  return score


def law(config: Any = None) -> Law:
  """Every answer with its chance under the base and its rewards.

  Args:
    config: section with the fields of `defaults`.

  Raises:
    UserError: more answers than can be listed.
  """
  c = _config(config)
  if _count(c) > _MOST:
    raise UserError(
      f"{c['topics']} topics and answers of up to {c['length']} tokens",
      f"these are {_count(c)} answers, of which {_MOST} can be listed",
      "use shorter answers or fewer topics",
    )
  t, v = c["length"], rows.vocab(c)
  parts = []
  for n in range(t + 1):
    every = itertools.product(range(1, v), repeat=n)
    body = np.asarray(list(every), np.int32).reshape((v - 1) ** n, n)
    parts.append(np.pad(body, [(0, 0), (0, t - n)]))
  tokens = np.concatenate(parts)
  size = (tokens != rows.STOP).sum(1)
  mask = np.arange(t) <= size[:, None]
  chance = rows.chances(c)  # [X, V]
  log = np.where(mask, np.log(chance)[:, tokens], 0).sum(-1)
  score = jax.jit(scorer(c))
  found = [
    jax.tree.map(
      lambda x: np.asarray(x, np.float64),
      score(jnp.asarray(tokens), jnp.full(len(tokens), x)),
    )
    for x in range(c["topics"])
  ]
  stack = lambda name: np.stack([f[name] for f in found])
  return Law(tokens, mask, log, stack("value"), stack("gold"), stack("members"))


def _outcomes(known: Law, batch: Mapping[str, Any]) -> Outcomes:
  topic = np.asarray(batch["prompt"])[:, 0] - 1
  wide = lambda x: np.broadcast_to(x, (len(topic), *x.shape))
  f32 = lambda x: x[topic].astype(np.float32)
  return Outcomes(
    wide(known.tokens),
    wide(known.mask),
    f32(known.reward),
    None,
    f32(known.gold),
  )


def _powers(base: int, n: int) -> np.ndarray:
  """u32[n]: base^i, which wraps around; a code tells listed answers apart."""
  return np.asarray([pow(base, i, 2**32) for i in range(n)], np.uint32)


def _count(c: Mapping[str, Any]) -> int:
  return sum((rows.vocab(c) - 1) ** n for n in range(c["length"] + 1))


def _config(config: Any) -> dict[str, Any]:
  c = data.section(config, defaults())
  counts = {"topics": 2, "length": 1, "members": 1, "pairs": 0, "world": 0}
  for name, low in counts.items():
    if not isinstance(c[name], int) or c[name] < low:
      raise UserError(
        f"{name}={c[name]!r}", "it is a number of things", f"use {low} or more"
      )
  shares, worth = tuple(c["shares"]), tuple(c["worth"])
  if len(shares) != 4 or min(shares) <= 0 or not math.isclose(sum(shares), 1):
    raise UserError(
      f"shares={shares!r}",
      f"they are the base's law of {', '.join(KINDS)}; all of them happen",
      "use 4 positive numbers that add up to 1",
    )
  if len(worth) != 4 or not all(math.isfinite(w) for w in worth):
    raise UserError(
      f"worth={worth!r}",
      f"it is the gold of {', '.join(KINDS)}",
      "use 4 finite numbers",
    )
  for name in ("length_bias", "attribute_bias", "coef"):
    if not math.isfinite(c[name]):
      raise UserError(
        f"{name}={c[name]}", "rewards are finite", "use a finite number"
      )
  for name in ("own", "tail", "temperature"):
    if not 0 <= c[name] < math.inf:
      raise UserError(
        f"{name}={c[name]}", "it is the scale of an error", "use 0 or more"
      )
  for name, good, want in (
    ("stop", 0 < c["stop"] < 1, "above 0 and below 1"),
    ("flip", 0 <= c["flip"] <= 1, "from 0 to 1"),
    ("df", c["df"] > 0, "above 0"),
  ):
    if not good:
      raise UserError(
        f"{name}={c[name]}", "see task biased for what it is", f"use {want}"
      )
  for name, words in (("judge", rows.JUDGES), ("rule", aggregate.RULES)):
    if c[name] not in words:
      raise UserError(
        f"{name}={c[name]!r}",
        "it says whose judgement counts",
        f"use one of: {', '.join(words)}",
      )
  return c
