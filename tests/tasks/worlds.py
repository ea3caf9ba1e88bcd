"""What the tests of token worlds share: rollouts of texts, and reading rows."""

import itertools

import jax.numpy as jnp
import numpy as np

from rlreward.types import STOP, Rollout


def text(tok, ids, mask):
  return tok.decode(np.asarray(ids)[np.asarray(mask)])


def asked(task, batch):
  """(prompt, answer) of each row as text."""
  tok = task.spec["tokenizer"]
  return [
    tuple(text(tok, batch[k][i], batch[f"{k}_mask"][i])
          for k in ("prompt", "answer"))
    for i in range(len(batch["prompt"]))
  ]  # fmt: skip


def first(task, kind="batches", size=32, split="train", seed=0):
  return next(getattr(task, kind)(split, size, seed))


def written(task, batch, rows, group):
  """Rows of (ids, whether the policy wrote it) after their prompts."""
  width = max(1, *(sum(len(ids) for ids, _ in row) for row in rows))
  p, n = batch["prompt"].shape[1], len(rows)
  tokens = np.full((n, p + width), task.spec["pad_id"], np.int32)
  action = np.zeros(tokens.shape, bool)
  attend = np.zeros(tokens.shape, bool)
  tokens[:, :p] = batch["prompt"][group]
  attend[:, :p] = batch["prompt_mask"][group]
  for i, row in enumerate(rows):
    at = p
    for ids, mine in row:
      where = slice(at, at + len(ids))
      tokens[i, where], action[i, where], attend[i, where] = ids, mine, True
      at += len(ids)
  return Rollout(
    tokens=jnp.asarray(tokens),
    attend=jnp.asarray(attend),
    action=jnp.asarray(action),
    loss=jnp.asarray(action),
    logp=jnp.zeros(tokens.shape),
    group=jnp.asarray(group),
    finish=jnp.full(n, STOP),
    version=jnp.zeros((), jnp.int32),
  )


def said(task, batch, texts, group, eos=True):
  """Rows of one text each, with eos."""
  tok = task.spec["tokenizer"]
  stop = [tok.eos_ids[0]] if eos else []
  rows = [[([*tok.encode(t), *stop], True)] for t in texts]
  return written(task, batch, rows, group)


def values(task, batch, texts, group=None, eos=True, reward=None):
  """Values of texts as answers to the prompts of a batch."""
  group = np.arange(len(texts)) if group is None else np.asarray(group)
  rollout = said(task, batch, texts, group, eos)
  return np.asarray((reward or task.reward)(rollout, batch).value)


def all_answers(task, batch, length):
  """Values of every sequence of so many tokens as answer to prompt 0."""
  v = task.spec["vocab_size"]
  every = np.array([*itertools.product(range(v), repeat=length)], np.int32)
  rows = [[(ids, True)] for ids in every]
  rollout = written(task, batch, rows, np.zeros(len(rows), int))
  return every, np.asarray(task.reward(rollout, batch).value)
