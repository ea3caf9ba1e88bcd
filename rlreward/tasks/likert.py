"""Answers rated in five attributes, few enough to list: every law is known.

The world of HelpSteer2. X prompts, to each of which every pair of letters is an
answer. An answer has five attributes from 0 to 4, those of the paper: letters
add up and interact, and over the answers to a prompt each attribute is spread
evenly. The prior P(y|x) is drawn from a Dirichlet law, and demonstrations are
of a policy that leans toward the first attribute, a first attempt at answers
that have much of it. Ratings are whole numbers with noise, some missing. A
prompt's token is no letter: a decoder without places could not tell a letter
after itself from the first one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from rlreward.errors import UserError
from rlreward.ops import steer
from rlreward.tasks import data, draws
from rlreward.tasks.draws import Batch
from rlreward.types import Rollout, Score, Task

NAMES = ("helpfulness", "correctness", "coherence", "complexity", "verbosity")
LENGTH = 2
_NEVER = -100.0  # nats, of an answer with a letter that does not exist
_FILLS = ("nan", "zero")


def defaults() -> dict[str, Any]:
  """Fields of the task's config section."""
  return {
    "name": "likert",
    "prompts": 4,  # X
    "letters": 8,  # an answer is two of them
    "interaction": 0.5,  # of letters, where each alone has deviation 1
    "tilt": 0.5,  # demonstrations are of P(y|x) exp(tilt * helpfulness) / Z
    "ratings": 1024,  # rated answers of the training data
    "noise": 0.6,  # deviation of what is added to each rating
    "missing": 0.3,  # share of the ratings that are not there
    "fill": "nan",  # what is in their place: nan | zero, which is a mistake
    "world": 0,  # seed of attributes and prior
  }


def make(
  config: Any = None, *, process_index: int = 0, process_count: int = 1
) -> Task:
  """The task; the reward is goodness, its components the five attributes.

  A component `prior_logp` is log P(y|x). Batches have `kind` i32[B], the
  prompt's index. `labelled` has `target` f32[N, 5]: ratings, or without noise
  (and none missing) `gold` too where they are held out.
  `spec["answers"]` lists all answers, see `answers`.

  Args:
    config: section with the fields of `defaults`.
    process_index: this host.
    process_count: hosts; each makes its slice of a batch.

  Returns:
    Task whose reward is its gold and can be compiled; its demonstrations are
    of the tilted prior.

  Raises:
    UserError: fields that cannot work.
  """
  c = _config(config)
  table, prior = attributes(c), log_prior(c)
  count = prior.shape[1]
  lean = np.exp(tilted(c))
  edges = np.cumsum(lean / lean.sum(1, keepdims=True), 1)

  def kinds(size, rng) -> np.ndarray:
    """Every prompt as often as the others."""
    first = rng.integers(c["prompts"])
    return rng.permutation((first + np.arange(size)) % c["prompts"])

  def prompts(size, rng) -> Batch:
    kind = kinds(size, rng).astype(np.int32)
    mask = np.ones((size, 1), bool)
    prompt = c["letters"] + kind[:, None]
    return {"prompt": prompt, "prompt_mask": mask, "kind": kind}

  def demonstrations(size, rng) -> Batch:
    kind = kinds(size, rng)
    drawn = (rng.random((size, 1)) > edges[kind]).sum(1)
    return rows(c, kind, np.minimum(drawn, count - 1))

  def rated(seed: int) -> draws.Finite:
    rng = np.random.default_rng([seed, 2])
    n = c["ratings"]
    kind, answer = kinds(n, rng), rng.integers(count, size=n)
    target = rating(c, table[kind, answer], rng)
    return draws.Finite(
      n, lambda i: {**rows(c, kind[i], answer[i]), "target": target[i]}
    )

  def held_out(size, rng) -> Batch:
    pairs = -(-size // 2)
    kind = np.repeat(kinds(pairs, rng), 2)[:size]
    answer = rng.integers(count, size=size)
    gold = table[kind, answer].astype(np.float32)
    return {**rows(c, kind, answer), "target": gold, "gold": gold}

  def stream(build, finite=None):
    digest = draws.digest(c)
    return lambda split, batch_size, seed: draws.Draws(
      build, split, batch_size, seed, digest, process_index, process_count,
      finite,
    )  # fmt: skip

  reward = verifier(c)
  spec: dict[str, Any] = {
    "vocab_size": c["letters"] + c["prompts"],
    "prompt_length": 1,
    "completion_length": LENGTH,
    "answer_length": LENGTH,
    "demonstrated": LENGTH,
    "stop_ids": (),
    "pad_id": 0,
    "on_device": True,
    "tokenizer": None,
    "labels": "ratings",
    "outputs": len(NAMES),
    "answers": answers(c),
  }
  return Task(
    stream(prompts),
    reward,
    reward,
    spec,
    stream(demonstrations),
    labelled=stream(held_out, rated),
  )


# ------------------------------------------------------------------- the world
def attributes(c: Mapping[str, Any]) -> np.ndarray:
  """f64[X, Y, 5] of all answers: 2/Y, 6/Y .. 4 - 2/Y in the order of

    f(y_1) + g(y_2) + interaction h(y_1, y_2),  f, g, h from N(0, 1)

  Args:
    c: all fields of `defaults`.
  """  # fmt: skip
  rng = np.random.default_rng([c["world"], 17])
  x, n, k = c["prompts"], c["letters"], len(NAMES)
  first, second = rng.normal(size=(2, x, n, k))
  both = c["interaction"] * rng.normal(size=(x, n, n, k))
  total = (first[:, :, None] + second[:, None] + both).reshape(x, n * n, k)
  place = np.argsort(np.argsort(total, 1), 1)
  return 4 * (place + 0.5) / (n * n)


def log_prior(c: Mapping[str, Any]) -> np.ndarray:
  """f64[X, Y]: log P(y|x), uniform among laws, none below 1e-6."""
  rng = np.random.default_rng([c["world"], 18])
  p = rng.dirichlet(np.ones(c["letters"] ** 2), c["prompts"])
  p = np.maximum(p, 1e-6)
  return np.log(p / p.sum(1, keepdims=True))


def tilted(c: Mapping[str, Any]) -> np.ndarray:
  """f64[X, Y]: log P(y|x) + tilt * helpfulness, up to a number of each x."""
  return log_prior(c) + c["tilt"] * attributes(c)[..., 0]


def rating(c: Mapping[str, Any], true: np.ndarray, rng) -> np.ndarray:
  """f32[n, 5]: whole numbers 0 .. 4 around true ones, some missing."""
  seen = np.rint(true + c["noise"] * rng.normal(size=true.shape))
  gone = rng.random(true.shape) < c["missing"]
  fill = math.nan if c["fill"] == "nan" else 0.0
  return np.where(gone, fill, np.clip(seen, 0, 4)).astype(np.float32)


# -------------------------------------------------------------------- to arrays
def rows(c: Mapping[str, Any], kind: np.ndarray, answer: np.ndarray) -> Batch:
  """`tokens`, `attend`, `loss` [n, 1 + 2]: the prompt and two letters."""
  letters = np.stack([answer // c["letters"], answer % c["letters"]], 1)
  prompt = c["letters"] + kind[:, None]
  tokens = np.concatenate([prompt, letters], 1).astype(np.int32)
  loss = np.ones(tokens.shape, bool)
  loss[:, 0] = False
  return {"tokens": tokens, "attend": np.ones(tokens.shape, bool), "loss": loss}


def answers(c: Mapping[str, Any]) -> dict[str, Any]:
  """All answers: `tokens` i32[Y, 2], `prior` f64[X, Y], `attributes` and
  `names`: f64[X, Y, 5] and their names.

  Args:
    c: all fields of `defaults`.
  """
  place = np.arange(c["letters"] ** 2)
  tokens = np.stack([place // c["letters"], place % c["letters"]], 1)
  return {
    "tokens": tokens.astype(np.int32),
    "prior": log_prior(c),
    "attributes": attributes(c),
    "names": NAMES,
  }


def verifier(c: Mapping[str, Any]) -> Callable[..., Score]:
  """(Rollout, batch) -> Score: goodness of the answer to the prompt `kind`.

  Args:
    c: all fields of `defaults`.
  """
  n = c["letters"]
  table = jnp.asarray(attributes(c), jnp.float32)
  prior = jnp.asarray(log_prior(c), jnp.float32)

  def score(rollout: Rollout, batch: Mapping[str, Any]) -> Score:
    kind = jnp.asarray(batch["kind"])[rollout.group]
    letters = rollout.tokens[:, -LENGTH:]
    known = jnp.all(rollout.action[:, -LENGTH:] & (letters < n), 1)
    place = jnp.where(known, letters[:, 0] * n + letters[:, 1], 0)
    each = jnp.where(known[:, None], table[kind, place], 0)
    parts = {name: each[:, k] for k, name in enumerate(NAMES)}
    parts["prior_logp"] = jnp.where(known, prior[kind, place], _NEVER)
    return Score(steer.goodness(each), jnp.ones(known.shape, bool), None, parts)

  return score


def _config(config: Any) -> dict[str, Any]:
  c = data.section(config, defaults())
  for name, low in {"prompts": 1, "letters": 2, "ratings": 1,
                    "world": 0}.items():  # fmt: skip
    if not isinstance(c[name], int) or c[name] < low:
      raise UserError(
        f"{name}={c[name]!r}", "it is a number of things", f"use {low} or more"
      )
  if c["letters"] > 64:
    raise UserError(
      f"letters={c['letters']}",
      "all pairs of them are listed for every prompt",
      "use 64 or less",
    )
  for name, top in {"interaction": math.inf, "noise": math.inf,
                    "missing": 1}.items():  # fmt: skip
    if not 0 <= c[name] <= top or math.isinf(c[name]) or c["missing"] == 1:
      raise UserError(
        f"{name}={c[name]!r}",
        "it is a deviation, or the share of ratings that are missing",
        "use a finite number from 0 on, and less than 1 for missing",
      )
  if not math.isfinite(c["tilt"]):
    raise UserError(
      f"tilt={c['tilt']!r}",
      "it is what an attribute adds to a log-probability",
      "use a finite number; 0 demonstrates the prior",
    )
  if c["fill"] not in _FILLS:
    raise UserError(
      f"fill={c['fill']!r}",
      "it stands in the place of a missing rating",
      f"use one of: {', '.join(_FILLS)}",
    )
  return c
