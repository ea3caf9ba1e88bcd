"""One meaning in several languages: what a reward model knows of each.

The world of multilingual benchmarks. A word means a topic and is worth what its
topic is; an answer is the sum of its words. Each language has words of its own
for the same meanings, and training pairs are more often in one language than in
another, so that a model has seen the words of some hardly at all. The benchmark
has each pair of answers in every language: written in the first one, and
translated into the others by two systems, which put wrong words in the places
of some. Annotators also like answers in the form of a list, for which they get
nothing: that is the same in every language, and so are the errors it makes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from rlreward.errors import UserError
from rlreward.tasks import data, draws, topics
from rlreward.tasks.draws import Batch
from rlreward.types import Task

# Subsets, of a section of RewardBench each, and the words in which the answers
# of a pair differ: few are hard to tell apart. 0 stands for all of them.
DIFFER = {
  "alpacaeval-easy": 0,
  "llmbar-natural": 1,
  "donotanswer": 2,
  "hep-python": 3,
}
SYSTEMS = ("good", "poor")


def defaults() -> dict[str, Any]:
  """Fields of the task's config section."""
  return {
    "name": "languages",
    "topics": 8,
    "words": 12,  # of a topic, in each language
    "length": 4,  # words of an answer
    "languages": ("en", "de", "id", "sw"),
    "seen": (1.0, 1.0, 0.25, 0.0625),  # how often, in training pairs
    "astray": (0.05, 0.25),  # share of words that each system gets wrong
    "pairs": 4096,  # for training, of all languages
    "noise": 0.5,  # scale of the logistic noise of a label
    "bias": 1.0,  # what annotators add for a list, in every language
    "shuffled": 0.0,  # share of the labels that are a coin
    "world": 0,  # seed of the topics' worth and of the words' topics
  }


def make(
  config: Any = None, *, process_index: int = 0, process_count: int = 1
) -> Task:
  """The task: pairs in all languages, and a benchmark of held-out ones.

  Training pairs depend on the seed alone, which shuffles them anew in every
  epoch. Held-out pairs are instances in every version: the first language, and
  each other one by each of SYSTEMS. Columns beside those of a pair: `item`,
  `right`, `name` (the instance), `group` (place in `spec["groups"]`),
  `language` (in `spec["languages"]`) and `system` (in `spec["systems"]`, -1
  where nothing is translated).

  Args:
    config: section with the fields of `defaults`, None for all of them.
    process_index: this host.
    process_count: hosts; each makes its slice of a batch.

  Returns:
    Task whose reward is the worth of the words, in any language.

  Raises:
    UserError: fields that cannot work.
  """
  c = _config(config)
  width, hosts = c["length"] + 2, (process_index, process_count)
  table = worth(c)

  def prompts(size, rng) -> Batch:
    del rng
    return {
      "prompt": np.zeros((size, 1), np.int32),
      "prompt_mask": np.ones((size, 1), bool),
    }

  def given(seed: int) -> draws.Finite:
    text = labelled(c, np.random.default_rng([seed, 2]))
    return draws.Finite(len(text), lambda index: topics.paired(text[index]))

  def stream(build: draws.Build, finite=None):
    return lambda split, batch_size, seed: draws.Draws(
      build, split, batch_size, seed, draws.digest(c), *hosts, finite
    )

  spec: dict[str, Any] = {
    "vocab_size": len(table),
    "prompt_length": 1,
    "completion_length": width,
    "answer_length": width,
    "stop_ids": (topics.EOS,),
    "pad_id": 0,
    "on_device": True,
    "judged": False,
    "tokenizer": None,
    "groups": tuple(DIFFER),
    "languages": tuple(c["languages"]),
    "systems": SYSTEMS,
  }
  return Task(
    stream(prompts),
    topics.verifier(c, 0.0, table),
    None,
    spec,
    preferences=stream(lambda size, rng: held_out(c, size, rng), given),
  )


# ------------------------------------------------------------------- the world
def worth(c: Mapping[str, Any]) -> np.ndarray:
  """f32[V]: what each token earns; those of all languages, one after another.

  Args:
    c: all fields of `defaults`.
  """
  own = topics.worth(c)
  table = own[: topics.FIRST]
  words = own[topics.vocabulary(c)].reshape(-1)
  return np.concatenate([table, *[words] * len(c["languages"])])


def said(c: Mapping[str, Any], meaning: np.ndarray, language) -> np.ndarray:
  """Tokens of meanings 0 .. topics * words - 1 in a language, of any shape."""
  return topics.FIRST + language * c["topics"] * c["words"] + meaning


def labelled(c: Mapping[str, Any], rng) -> np.ndarray:
  """i32[pairs, 2, 1 + T]: training pairs, the preferred answer first.

    A is preferred where g(A) - g(B) + bias (l(A) - l(B)) + Logistic(0, noise)
    > 0, with g the gold and l whether it is a list

  Args:
    c: all fields of `defaults`.
    rng: numpy generator.
  """
  n, count = c["pairs"], c["topics"] * c["words"]
  share = np.asarray(c["seen"], float)
  language = rng.choice(len(share), n, p=share / share.sum())
  meaning = rng.integers(0, count, (n, 2, c["length"]))
  text = said(c, meaning, language[:, None, None])
  form = forms((n, 2), rng)
  says = worth(c)[text].sum(-1) + c["bias"] * (form[..., 0] == topics.LIST)
  first = says[:, 0] - says[:, 1] + c["noise"] * rng.logistic(size=n) > 0
  coin = rng.random((2, n))
  first = np.where(coin[0] < c["shuffled"], coin[1] < 0.5, first)
  text = np.concatenate([form, text], -1).astype(np.int32)
  return np.where(first[:, None, None], text, text[:, ::-1])


def forms(shape: tuple[int, ...], rng) -> np.ndarray:
  """i64[*shape, 1]: lists and plain answers, as many of each."""
  return np.where(rng.random((*shape, 1)) < 0.5, topics.LIST, topics.PLAIN)


def instances(c: Mapping[str, Any], n: int, rng) -> tuple:
  """n pairs by gold, the better one first, evenly over subsets.

  Args:
    c: all fields of `defaults`.
    n: pairs.
    rng: numpy generator.

  Returns:
    (forms i64[n, 2, 1], meanings i64[n, 2, T], i64[n] place in DIFFER).
  """
  t, count = c["length"], c["topics"] * c["words"]
  table = topics.worth(c)[topics.vocabulary(c)].reshape(-1)
  group = np.sort(np.arange(n) % len(DIFFER))
  differ = np.asarray([min(d or t, t) for d in DIFFER.values()])[group]
  out = np.zeros((n, 2, t), np.int64)
  left = np.arange(n)
  while left.size:  # drawn again where both are worth the same
    text = rng.integers(0, count, (left.size, 2, t))
    same = np.arange(t) >= differ[left, None]
    text[:, 1] = np.where(same, text[:, 0], text[:, 1])
    text = rng.permuted(text, axis=2)
    gold = table[text].sum(-1)
    better = gold[:, 0] > gold[:, 1]
    out[left] = np.where(better[:, None, None], text, text[:, ::-1])
    left = left[np.abs(gold[:, 0] - gold[:, 1]) < 1e-4]
  return forms((n, 2), rng), out, group


def held_out(c: Mapping[str, Any], size: int, rng) -> Batch:
  """`size` pairs: instances in every version; what is left over is no item.

  Args:
    c: all fields of `defaults`.
    size: pairs, 2 rows each.
    rng: numpy generator.
  """
  codes, count = len(c["languages"]), c["topics"] * c["words"]
  versions = [(0, -1)]
  versions += [
    (code, system) for code in range(1, codes) for system in range(2)
  ]
  n = size // len(versions)
  form, meaning, group = instances(c, n, rng)
  parts = []
  for code, system in versions:
    shown = meaning
    if system >= 0:
      wrong = rng.random(meaning.shape) < c["astray"][system]
      other = rng.integers(0, count, meaning.shape)
      shown = np.where(wrong, other, meaning)
    parts.append(np.concatenate([form, said(c, shown, code)], -1))
  rest = size - n * len(versions)
  form, meaning, _ = instances(c, rest, rng)
  parts.append(np.concatenate([form, said(c, meaning, 0)], -1))
  i32 = lambda x: np.repeat(np.concatenate(x), 2).astype(np.int32)
  none = np.full(rest, -1)
  place = np.arange(n)
  return {
    **topics.paired(np.concatenate(parts).astype(np.int32)),
    "item": i32([*[v * n + place for v in range(len(versions))], none]),
    "right": np.arange(2 * size) % 2 == 0,
    "name": i32([*[place] * len(versions), none]),
    "group": i32([*[group] * len(versions), none]),
    "language": i32([*[np.full(n, code) for code, _ in versions], none]),
    "system": i32([*[np.full(n, s) for _, s in versions], none]),
  }


def _config(config: Any) -> dict[str, Any]:
  c = data.section(config, defaults())
  least = {"topics": 2, "words": 2, "length": 1, "pairs": 1, "world": 0}
  for name, low in least.items():
    if not isinstance(c[name], int) or c[name] < low:
      raise UserError(
        f"{name}={c[name]!r}", "it is a number of things", f"use {low} or more"
      )
  codes, seen, astray = c["languages"], c["seen"], c["astray"]
  if len(codes) < 2 or len(set(codes)) < len(codes) or len(seen) != len(codes):
    raise UserError(
      f"languages={tuple(codes)!r} seen={tuple(seen)!r}",
      "the first is what the others are compared with, each is seen so often",
      "give two names or more, each once, and one number for each",
    )
  if min(seen) <= 0 or not all(map(math.isfinite, seen)):
    raise UserError(
      f"seen={tuple(seen)!r}",
      "training pairs are in each language",
      "use numbers above 0",
    )
  if len(astray) != 2 or not all(0 <= a <= 1 for a in astray):
    raise UserError(
      f"astray={tuple(astray)!r}",
      "it is the share of words that a good and a poor system get wrong",
      "give two numbers from 0 to 1",
    )
  if not (0 <= c["shuffled"] <= 1 and 0 <= c["noise"] < math.inf):
    raise UserError(
      f"shuffled={c['shuffled']!r}, noise={c['noise']!r}",
      "labels are coins in a share, and noise has a scale",
      "use a share from 0 to 1, and a finite noise of 0 or more",
    )
  return c
