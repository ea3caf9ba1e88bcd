"""Words of hidden topics, and annotators who like lists: rewards that err.

The world of ensembles of reward models. A word is worth what its topic is, and
an answer the sum of its words. Preferences are about some of the words alone;
what the others are worth has to be inferred from the company that words keep in
a corpus, which a model is pretrained on. It is small, so that models pretrained
on different halves of it err about different words. Annotators also like
answers in the form of a list, for which they get nothing, and all models learn
that from them.
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

EOS, PLAIN, LIST, FIRST = 1, 2, 3, 4
_SHARES = ("seen", "astray", "lists", "shuffled")


def defaults() -> dict[str, Any]:
  """Fields of the task's config section."""
  return {
    "name": "topics",
    "topics": 8,  # C
    "words": 12,  # of a topic
    "length": 4,  # T, words of an answer
    "sentences": 1024,  # of the corpus
    "astray": 0.2,  # share of the corpus' words from any topic
    "pairs": 512,  # of answers, for training
    "seen": 0.5,  # share of each topic's words that pairs are made of
    "noise": 0.5,  # scale of the logistic noise of a label
    "shuffled": 0.0,  # share of the labels that are a coin
    "bias": 1.0,  # what annotators add for a list
    "lists": 0.1,  # share of lists among answers
    "world": 0,  # seed of the topics' worth and of the words' topics
  }


def make(
  config: Any = None, *, process_index: int = 0, process_count: int = 1
) -> Task:
  """The task: token 0 is the prompt and the padding, an answer its form (PLAIN
  or LIST), T words and EOS.

  Corpus and training pairs depend on the seed alone, which shuffles them anew
  in every epoch; `row` i32 numbers sentences and pairs. Of held-out rows the
  first half are pairs without noise, and the second half are answers of the
  policy (`valid` false, `answer` true), with `gold` f32 and `list` bool.

  Args:
    config: section with the fields of `defaults`, None for all of them.
    process_index: this host.
    process_count: hosts; each makes its slice of a batch.

  Returns:
    Task whose reward is what annotators say and whose gold is the words'
    worth; demonstrations are the corpus.

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

  digest = draws.digest(c)
  hosts = process_index, process_count

  def stream(build: draws.Build, finite=None):
    return lambda split, batch_size, seed: draws.Draws(
      build, split, batch_size, seed, digest, *hosts, finite
    )

  def given(make: Callable[[np.random.Generator], np.ndarray]):
    """The data of a seed: sentences or pairs, each with its place there."""

    def finite(seed: int) -> draws.Finite:
      text = make(np.random.default_rng([seed, 2]))
      part = rows if text.ndim == 2 else paired

      def build(index: np.ndarray) -> Batch:
        out = part(text[index])
        each = len(out["tokens"]) // len(index)
        return {**out, "row": np.repeat(index, each).astype(np.int32)}

      return draws.Finite(len(text), build)

    return finite

  width = c["length"] + 2
  spec: dict[str, Any] = {
    "vocab_size": FIRST + c["topics"] * c["words"],
    "prompt_length": 1,
    "completion_length": width,
    "answer_length": width,
    "demonstrated": width,
    "stop_ids": (EOS,),
    "pad_id": 0,
    "on_device": True,
    "judged": False,
    "tokenizer": None,
  }
  return Task(
    stream(prompts),
    verifier(c, c["bias"]),
    verifier(c, 0.0),
    spec,
    stream(
      lambda size, rng: rows(corpus(c, size, rng)),
      given(lambda rng: corpus(c, c["sentences"], rng)),
    ),
    stream(
      lambda size, rng: held_out(c, size, rng),
      given(lambda rng: labelled(c, rng)),
    ),
  )


# ------------------------------------------------------------------- the world
def worth(c: Mapping[str, Any]) -> np.ndarray:
  """f32[V]: what each token earns in an answer of T words.

  Over words the mean is 0 and over answers the variance of the sum 1; tokens
  that are no words earn 0.

  Args:
    c: all fields of `defaults`.
  """
  rng = np.random.default_rng([c["world"], 11])
  each = rng.normal(size=c["topics"])
  each = (each - each.mean()) / each.std() / math.sqrt(c["length"])
  table = np.zeros(FIRST + c["topics"] * c["words"], np.float32)
  table[vocabulary(c)] = each[:, None]
  return table


def vocabulary(c: Mapping[str, Any]) -> np.ndarray:
  """i32[C, W]: the words of each topic; ids say nothing of topics."""
  rng = np.random.default_rng([c["world"], 12])
  count = c["topics"] * c["words"]
  ids = FIRST + rng.permutation(count)
  return ids.reshape(c["topics"], c["words"]).astype(np.int32)


def known(c: Mapping[str, Any]) -> np.ndarray:
  """i32[C, W']: the words of each topic that training pairs are made of."""
  return vocabulary(c)[:, : max(1, round(c["seen"] * c["words"]))]


def corpus(c: Mapping[str, Any], size: int, rng) -> np.ndarray:
  """i32[size, 1 + T]: sentences, each of words of one topic, some astray."""
  words = vocabulary(c)
  topic = rng.integers(0, c["topics"], (size, 1))
  other = rng.integers(0, c["topics"], (size, c["length"]))
  astray = rng.random((size, c["length"])) < c["astray"]
  place = rng.integers(0, c["words"], (size, c["length"]))
  text = words[np.where(astray, other, topic), place]
  return np.concatenate([_form(size, 0.5, rng), text], 1)


def answers(c: Mapping[str, Any], size: int, words, rng) -> np.ndarray:
  """i32[size, 1 + T]: answers of the policy, of any of these words."""
  text = rng.choice(words.reshape(-1), (size, c["length"]))
  return np.concatenate([_form(size, c["lists"], rng), text], 1)


def _form(size: int, share: float, rng) -> np.ndarray:
  lists = rng.random((size, 1)) < share
  return np.where(lists, LIST, PLAIN).astype(np.int32)


def labelled(c: Mapping[str, Any], rng) -> np.ndarray:
  """i32[pairs, 2, 1 + T]: training pairs, the preferred answer first.

    A is preferred where g(A) - g(B) + bias (l(A) - l(B)) + Logistic(0, noise)
    > 0, with g the gold and l whether it is a list

  Lists are as common as other answers here: annotators are shown both.

  Args:
    c: all fields of `defaults`.
    rng: numpy generator.
  """
  n, table = c["pairs"], worth(c)
  shown = {**c, "lists": 0.5}
  text = answers(shown, 2 * n, known(c), rng).reshape(n, 2, -1)
  says = table[text].sum(-1) + c["bias"] * (text[..., 0] == LIST)
  first = says[:, 0] - says[:, 1] + c["noise"] * rng.logistic(size=n) > 0
  coin = rng.random((2, n))
  first = np.where(coin[0] < c["shuffled"], coin[1] < 0.5, first)
  return np.where(first[:, None, None], text, text[:, ::-1])


# -------------------------------------------------------------------- to arrays
def rows(text: np.ndarray) -> Batch:
  """`tokens`, `attend`, `loss` [n, 1 + 1 + T + 1]: prompt, form, words, EOS."""
  size = len(text)
  tokens = np.concatenate(
    [np.zeros((size, 1), np.int32), text, np.full((size, 1), EOS, np.int32)], 1
  )
  loss = np.ones(tokens.shape, bool)
  loss[:, 0] = False
  return {"tokens": tokens, "attend": np.ones(tokens.shape, bool), "loss": loss}


def paired(pairs: np.ndarray) -> Batch:
  """Rows of n pairs, the preferred first, and `strength` f32[2n]."""
  out = rows(pairs.reshape(-1, pairs.shape[-1]))
  return {**out, "strength": np.ones(len(out["tokens"]), np.float32)}


def held_out(c: Mapping[str, Any], size: int, rng) -> Batch:
  """`size` pairs: half of them by their gold, half as answers of the policy.

  Args:
    c: all fields of `defaults`.
    size: pairs, 2 rows each.
    rng: numpy generator.
  """
  table, count = worth(c), size // 2
  words = vocabulary(c)
  pairs = answers(c, 2 * (size - count), words, rng).reshape(
    -1, 2, 1 + c["length"]
  )
  gold = table[pairs].sum(-1)
  better = gold[:, 0] > gold[:, 1]
  pairs = np.where(better[:, None, None], pairs, pairs[:, ::-1])
  free = answers(c, 2 * count, words, rng).reshape(pairs[:count].shape)
  text = np.concatenate([pairs, free])
  answer = np.repeat(np.arange(size) >= size - count, 2)
  flat = text.reshape(2 * size, -1)
  return {
    **paired(text),
    "valid": ~answer,
    "answer": answer,
    "gold": table[flat].sum(-1),
    "list": flat[:, 0] == LIST,
  }


def verifier(
  c: Mapping[str, Any], bias: float, each: np.ndarray | None = None
) -> Callable[..., Score]:
  """(Rollout, batch) -> Score: the worth of the first T words, and a bias.

  Args:
    c: all fields of `defaults`.
    bias: what a list adds.
    each: f32[V], what tokens earn; None for `worth`.
  """
  table = jnp.asarray(worth(c) if each is None else each)

  def score(rollout: Rollout, batch: Mapping[str, Any]) -> Score:
    del batch
    token, action = rollout.tokens, rollout.action
    place = jnp.cumsum(action, 1) - 1
    word = action & (place >= 1) & (place <= c["length"])
    gold = jnp.sum(
      jnp.where(word, table[jnp.minimum(token, table.size - 1)], 0), 1
    )
    form = action & (place == 0) & (token == LIST)
    lists = jnp.any(form, 1).astype(jnp.float32)
    parts = {"gold": gold, "list": lists}
    value = gold + bias * lists
    return Score(value, jnp.ones(value.shape, bool), None, parts)

  return score


def _config(config: Any) -> dict[str, Any]:
  c = data.section(config, defaults())
  least = {"topics": 2, "words": 2, "length": 1, "sentences": 1, "pairs": 1}
  for name, low in {**least, "world": 0}.items():
    if not isinstance(c[name], int) or c[name] < low:
      raise UserError(
        f"{name}={c[name]!r}", "it is a number of things", f"use {low} or more"
      )
  for name in _SHARES:
    if not 0 <= c[name] <= 1:
      raise UserError(
        f"{name}={c[name]!r}", "it is a share", "use a number from 0 to 1"
      )
  if not (0 <= c["noise"] < math.inf and math.isfinite(c["bias"])):
    raise UserError(
      f"noise={c['noise']!r}, bias={c['bias']!r}",
      "they are in units of the gold, whose deviation is 1",
      "use finite numbers, and noise of 0 or more",
    )
  return c
