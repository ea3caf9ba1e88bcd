"""What the tests of token worlds share: rollouts of texts, and reading rows."""

import itertools

import jax
import numpy as np

from rlreward.types import STOP, Rollout

ROWS = ("tokens", "attend", "action", "loss", "logp", "group", "finish")


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


def judge(reward, rollout, batch):
  """The score of some rows, compiled as one program at one of few shapes."""
  n = rollout.tokens.shape[0]
  size = max(64, 1 << (n - 1).bit_length())  # rows again, up to a power of 2
  rows = np.arange(size) % n
  fields = {k: v[rows] for k, v in rollout._asdict().items() if k in ROWS}
  found = jax.jit(reward)(rollout._replace(**fields), batch)
  return jax.tree.map(lambda x: np.asarray(x)[:n], found)


def written(task, batch, rows, group):
  """Rows of (ids, whether the policy wrote it) after their prompts."""
  width = max(1, *(sum(len(ids) for ids, _ in row) for row in rows))
  p, n = batch["prompt"].shape[1], len(rows)
  width = -(-(p + width) // 32) * 32 - p  # few shapes, so few programs
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
    tokens=tokens,
    attend=attend,
    action=action,
    loss=action,
    logp=np.zeros(tokens.shape, np.float32),
    group=np.asarray(group),
    finish=np.full(n, STOP),
    version=np.zeros((), np.int32),
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
  return judge(reward or task.reward, rollout, batch).value


def all_answers(task, batch, length):
  """Values of every sequence of so many tokens as answer to prompt 0."""
  v = task.spec["vocab_size"]
  every = np.array([*itertools.product(range(v), repeat=length)], np.int32)
  rows = [[(ids, True)] for ids in every]
  rollout = written(task, batch, rows, np.zeros(len(rows), int))
  return every, judge(task.reward, rollout, batch).value
