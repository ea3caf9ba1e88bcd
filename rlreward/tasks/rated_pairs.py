"""Two answers to a prompt, rated one by one and compared: ratings that drift.

An answer is worth the sum of its words. The same two answers have both: Likert
ratings, which move up and down together from prompt to prompt, since the
annotators of a prompt are strict or mild, and a preference with its strength,
which sees the difference alone but only in three grades. Each tells what the
other leaves out.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from rlreward.errors import UserError
from rlreward.tasks import data, draws
from rlreward.tasks.draws import Batch
from rlreward.types import Rollout, Score, Task

EOS, FIRST = 1, 2


def defaults() -> dict[str, Any]:
  """Fields of the task's config section."""
  return {
    "name": "rated_pairs",
    "words": 48,
    "length": 8,  # T, words of an answer
    "prompts": 400,  # of training, two answers each
    "offset": 1.0,  # deviation of what a prompt adds to both ratings; an
    # answer's own worth has deviation 1
    "rating_noise": 0.5,  # and of what is added to each rating
    "preference_noise": 1.0,  # to the difference that preferences are about
    "grades": (0.25, 1.0, 2.0),  # differences from which a preference is of
    # strength 1, 2 and 3; below the first there is none, strength 0
    "world": 0,  # seed of the words' worth
  }


def make(
  config: Any = None, *, process_index: int = 0, process_count: int = 1
) -> Task:
  """The task; arrays hold the prompt 0, T words and EOS.

  `labelled` has `target` f32[N, 1], ratings 0 to 4, and `preferences` has
  `strength` f32[2N], 0 to 3. Both are of the same answers, which depend on the
  seed alone. Held-out rows have neither noise nor offset: rows 2i and 2i + 1
  answer one prompt, the better one first, their `gold` is f32[N].

  Args:
    config: section with the fields of `defaults`.
    process_index: this host.
    process_count: hosts; each makes its slice of a batch.

  Returns:
    Task whose reward is its gold and can be compiled.

  Raises:
    UserError: fields that cannot work.
  """
  c = _config(config)

  def prompts(size, rng) -> Batch:
    del rng
    return {
      "prompt": np.zeros((size, 1), np.int32),
      "prompt_mask": np.ones((size, 1), bool),
    }

  def stream(build, finite=None):
    digest = draws.digest(c)
    return lambda split, batch_size, seed: draws.Draws(
      build, split, batch_size, seed, digest, process_index, process_count,
      finite,
    )  # fmt: skip

  def rated(seed: int) -> draws.Finite:
    text, rating, _ = judged(c, np.random.default_rng([seed, 2]))
    text = text.reshape(-1, c["length"])
    target = rating.reshape(-1, 1).astype(np.float32)
    build = lambda index: {**rows(text[index]), "target": target[index]}
    return draws.Finite(len(text), build)

  def compared(seed: int) -> draws.Finite:
    text, _, lead = judged(c, np.random.default_rng([seed, 2]))
    text = np.where(lead[:, None, None] > 0, text, text[:, ::-1])
    grade = strength(c, lead)
    return draws.Finite(
      len(text), lambda index: paired(text[index], grade[index])
    )

  width = c["length"] + 1
  spec: dict[str, Any] = {
    "vocab_size": FIRST + c["words"],
    "prompt_length": 1,
    "completion_length": width,
    "answer_length": width,
    "stop_ids": (EOS,),
    "pad_id": 0,
    "on_device": True,
    "judged": False,
    "tokenizer": None,
    "outputs": 1,
  }
  reward = verifier(c)
  return Task(
    stream(prompts),
    reward,
    reward,
    spec,
    preferences=stream(lambda n, rng: held_out(c, n, rng), compared),
    labelled=stream(lambda n, rng: _rated(c, n, rng), rated),
  )


# ------------------------------------------------------------------- the world
def worth(c: Mapping[str, Any]) -> np.ndarray:
  """f64[V]: of each token; answers of random words have deviation 1."""
  each = np.random.default_rng([c["world"], 13]).normal(size=c["words"])
  each = (each - each.mean()) / each.std() / math.sqrt(c["length"])
  return np.concatenate([np.zeros(FIRST), each])


def judged(c: Mapping[str, Any], rng) -> tuple[np.ndarray, ...]:
  """(answers i32[n, 2, T], ratings f64[n, 2], perceived leads f64[n]).

    rating_i = round(2 + g_i + offset + noise_i) within 0 .. 4
    lead = g_0 - g_1 + noise,  g the worth

  Args:
    c: all fields of `defaults`.
    rng: numpy generator.
  """
  n = c["prompts"]
  text = words(c, (n, 2), rng)
  gold = worth(c)[text].sum(-1)
  shared = c["offset"] * rng.normal(size=(n, 1))
  own = c["rating_noise"] * rng.normal(size=(n, 2))
  lead = gold[:, 0] - gold[:, 1] + c["preference_noise"] * rng.normal(size=n)
  return text, np.clip(np.rint(2 + gold + shared + own), 0, 4), lead


def strength(c: Mapping[str, Any], lead: np.ndarray) -> np.ndarray:
  """f32[n]: 0 (no preference) to 3 (much better) of perceived leads."""
  return np.digitize(np.abs(lead), c["grades"]).astype(np.float32)


def words(c: Mapping[str, Any], size: tuple[int, ...], rng) -> np.ndarray:
  """i32[*size, T]: answers of random words."""
  text = rng.integers(0, c["words"], (*size, c["length"]))
  return (FIRST + text).astype(np.int32)


# -------------------------------------------------------------------- to arrays
def rows(text: np.ndarray) -> Batch:
  """`tokens`, `attend`, `loss` [n, 1 + T + 1]: prompt, words, EOS."""
  size = len(text)
  ends = np.zeros((size, 1), np.int32)
  tokens = np.concatenate([ends, text, ends + EOS], 1)
  loss = np.ones(tokens.shape, bool)
  loss[:, 0] = False
  return {"tokens": tokens, "attend": np.ones(tokens.shape, bool), "loss": loss}


def paired(text: np.ndarray, grade: np.ndarray) -> Batch:
  """Rows of n pairs, the preferred first, and `strength` f32[2n]."""
  out = rows(text.reshape(-1, text.shape[-1]))
  return {**out, "strength": np.repeat(grade, 2)}


def held_out(c: Mapping[str, Any], size: int, rng) -> Batch:
  """`size` pairs by their gold, with `gold` f32[2 size]; strength 1 each."""
  text = words(c, (size, 2), rng)
  gold = worth(c)[text].sum(-1)
  first = gold[:, 0] > gold[:, 1]
  text = np.where(first[:, None, None], text, text[:, ::-1])
  gold = np.where(first[:, None], gold, gold[:, ::-1])
  out = paired(text, np.ones(size, np.float32))
  return {**out, "gold": gold.reshape(-1).astype(np.float32)}


def _rated(c: Mapping[str, Any], size: int, rng) -> Batch:
  """`size` rows of `held_out` with the `target` that has neither noise."""
  out = held_out(c, -(-size // 2), rng)
  out = {k: v[:size] for k, v in out.items() if k != "strength"}
  return {**out, "target": 2 + out["gold"][:, None]}


def verifier(c: Mapping[str, Any]) -> Callable[..., Score]:
  """(Rollout, batch) -> Score: the worth of an answer's first T words."""
  table = jnp.asarray(worth(c), jnp.float32)

  def score(rollout: Rollout, batch: Mapping[str, Any]) -> Score:
    del batch
    place = jnp.cumsum(rollout.action, 1) - 1
    own = rollout.action & (place < c["length"])
    known = jnp.minimum(rollout.tokens, table.size - 1)
    value = jnp.sum(jnp.where(own, table[known], 0), 1)
    return Score(value, jnp.ones(value.shape, bool))

  return score


def _config(config: Any) -> dict[str, Any]:
  c = data.section(config, defaults())
  for name, low in {"words": 2, "length": 1, "prompts": 1, "world": 0}.items():
    if not isinstance(c[name], int) or c[name] < low:
      raise UserError(
        f"{name}={c[name]!r}", "it is a number of things", f"use {low} or more"
      )
  for name in ("offset", "rating_noise", "preference_noise"):
    if not 0 <= c[name] < math.inf:
      raise UserError(
        f"{name}={c[name]!r}",
        "it is a deviation, in units of that of an answer's worth",
        "use a finite number from 0 on",
      )
  grades = tuple(c["grades"])
  if len(grades) != 3 or not 0 <= grades[0] < grades[1] < grades[2]:
    raise UserError(
      f"grades={grades!r}",
      "differences from each of them on are of strength 1, 2 and 3",
      "use three numbers from 0 on that rise",
    )
  return c
