"""Arithmetic in characters: "37+48=" is answered by "85" and the stop token.

The world of the quickstart: prompts without end, an exact gold reward inside
the compiled step, a held-out split that shares no problem with training, levels
by the size of the operands, and a share of demonstrations whose answer is
wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from rlreward.errors import UserError
from rlreward.tasks import answered, curriculum, draws, tokens
from rlreward.tasks import arithmetic_rows as rows
from rlreward.tasks.arithmetic_rows import ALPHABET
from rlreward.types import Outcomes, Rollout, Score, Task

_TRIES = 10_000


def defaults() -> dict[str, Any]:
  """Fields of the task's config section."""
  return {
    "name": "arithmetic",
    **curriculum.FIELDS,
    "level": 1,  # two digits, unless `digits` is set
    "digits": 2,  # largest operand is 10**digits - 1
    "operations": "+",  # any of + - *
    "holdout": 0.1,  # share of the problems kept for the test split
    "noise": 0.0,  # share of wrong answers (sft), flipped pairs and labels
    "judge_share": 0.0,  # share of demonstrations (sft) that judge an answer
    "hint_share": 0.0,  # share of them that are told the answer; adds hints
    "positive_share": 0.5,  # share of labelled answers that are right
    "pad_is_eos": False,  # pad and eos share an id, as in many tokenizers
  }


def levels() -> tuple[dict[str, Any], ...]:
  """Fields of each level, easy to hard."""
  return tuple({"digits": digits} for digits in (1, 2, 3, 4, 6, 9))


def at(level: int) -> dict[str, Any]:
  """The task's section at a level."""
  return curriculum.at(defaults(), levels(), level)


def make(
  config: Any = None, *, process_index: int = 0, process_count: int = 1
) -> Task:
  """The task: exact match of the answer and its stop token.

  Batches hold `prompt` i32[B, P], `prompt_mask` bool[B, P], `answer` i32[B, A]
  (digits and eos) and `answer_mask` bool[B, A], all arrays, as wide as the
  hardest stage asks for. The test split is of the last stage's level.

  Args:
    config: section with the fields of `defaults`, None for all of them.
    process_index: this host.
    process_count: hosts; each makes its slice of a batch.

  Returns:
    Task whose reward is its gold and can be compiled; its demonstrations
    (`spec["sft_batches"]` too) are `sft_batches` of this config. Its pairs
    and labelled answers are those of `arithmetic_rows`; `spec["judge"]` says
    how the policy rates an answer: `suffix` ids go behind it, then one of the
    `ratings` ids is worth the same place of `values`. `spec["levels"]`,
    `spec["guess"]` and `spec["chance"]` are those of `answered.task`.

  Raises:
    UserError: fields that cannot work.
  """
  c = _config(config)
  tok = tokenizer(config)

  def stream(build: rows.Build) -> Callable[[str, int, int], Any]:
    return _stream(config, build, process_index, process_count)

  demonstrations = stream(rows.demonstrations)
  reward = verifier(tok)
  spec = {
    "vocab_size": tok.vocab_size,
    "prompt_length": rows.prompt_length(c),
    "completion_length": rows.answer_length(c),
    "answer_length": rows.answer_length(c),
    "stop_ids": tok.eos_ids,
    "pad_id": tok.pad_id,
    "on_device": True,
    "tokenizer": tok,
    "columns": ("answer", "answer_mask"),
    "sft_batches": demonstrations,
    "judge": rows.judge(tok),
    "demonstrated": rows.answer_length(c),
    "hint": c["hint_share"] > 0,
    "outcomes": _outcomes,
    "levels": levels(),
    "guess": guess(c),
    "chance": lambda batch: answered.chance(batch, tok.vocab_size),
  }
  return Task(
    stream(rows.prompts),
    reward,
    reward,
    spec,
    demonstrations,
    stream(rows.preferences),
    stream(rows.labelled),
  )


def _outcomes(batch: Mapping[str, Any]) -> Outcomes:
  """The right answers; all others earn nothing."""
  answer = np.asarray(batch["answer"])[:, None]
  mask = np.asarray(batch["answer_mask"])[:, None]
  return Outcomes(answer, mask, np.ones(answer.shape[:2], np.float32), 0.0)


def tokenizer(config: Any = None) -> tokens.CharTokenizer:
  """The task's tokenizer: pad, eos, digits, operations and "="."""
  return rows.tokenizer(_config(config))


def sft_batches(
  config: Any, split: str, batch_size: int, seed: int
) -> Iterator[Mapping[str, np.ndarray]]:
  """Demonstrations: `tokens`, `attend`, `loss` [B, P + A], beside the prompts.

  With probability `noise` an answer is off by 1 to 9; such rows are true in
  `wrong` bool[B]. A policy that imitates them answers rightly about that much
  less often, which leaves room for a reward. With `judge_share` some rows
  judge an answer instead, see `arithmetic_rows.demonstrations`.

  Args:
    config: section with the fields of `defaults`, None for all of them.
    split: "train" or "test".
    batch_size: B.
    seed: of the problems.

  Returns:
    An iterator with `get_state` and `set_state`.

  Raises:
    UserError: fields that cannot work.
  """
  return _stream(config, rows.demonstrations)(split, batch_size, seed)


def guess(c: Mapping[str, Any]) -> float:
  """How often the most frequent answer is right, whatever is asked.

  Of the n = 10^digits operands a product is 0 for 2n - 1 pairs, a sum is n - 1
  for n of them, a difference 0 for n.

  Args:
    c: all fields of `defaults`.
  """
  n, ops = 10 ** c["digits"], c["operations"]
  zero = {"+": 1, "-": n, "*": 2 * n - 1}
  pairs = sum(zero[o] for o in ops)
  if "*" not in ops:  # any s from 0 to n - 1: s + 1 sums, n - s differences
    pairs = n + (len(ops) == 2)
  return pairs / (len(ops) * n * n)


def verifier(tok: tokens.CharTokenizer) -> Callable[..., Score]:
  """Exact match on tokens, inside a compiled function.

  Args:
    tok: of `tokenizer`.

  Returns:
    (Rollout, batch) -> Score. `correct` (also the value) is 1 where the
    actions of a row are the answer and eos, nothing more or less;
    `well_formed` is 1 where they are an integer without leading zeros and
    eos. Masks decide what was written, so pad may equal eos.
  """
  digit, minus = tok.encode("0")[0], tok.encode("-")[0]
  eos = tok.eos_ids[0]

  def score(rollout: Rollout, batch: Mapping[str, Any]) -> Score:
    token, action = rollout.tokens, rollout.action
    answer = jnp.asarray(batch["answer"])[rollout.group]
    wanted = jnp.asarray(batch["answer_mask"])[rollout.group]
    rank = jnp.cumsum(action, 1) - 1  # place of an action in its completion
    count = jnp.sum(action, 1)
    place = jnp.clip(rank, 0, answer.shape[1] - 1)
    same = token == jnp.take_along_axis(answer, place, 1)
    correct = jnp.all(same | ~action, 1) & (count == jnp.sum(wanted, 1))

    first = action & (rank == 0)
    sign = jnp.any(first & (token == minus), 1)
    body = action & (rank >= sign[:, None]) & (rank < count[:, None] - 1)
    is_digit = (token >= digit) & (token < digit + 10)
    ends = jnp.any(action & (rank == count[:, None] - 1) & (token == eos), 1)
    size = count - 1 - sign
    lead = action & (rank == sign[:, None])
    zero = jnp.any(lead & (token == digit), 1)
    plain = ~zero | ((size == 1) & ~sign)
    well = jnp.all(is_digit | ~body, 1) & ends & (size >= 1) & plain
    value = correct.astype(jnp.float32)
    return Score(
      value=value,
      valid=jnp.ones(value.shape, bool),
      components={"correct": value, "well_formed": well.astype(jnp.float32)},
    )

  return score


def problems(
  c: Mapping[str, Any],
  split: str,
  batch_size: int,
  seed: int,
  build: rows.Build,
  process_index: int = 0,
  process_count: int = 1,
) -> draws.Draws:
  """An endless iterator; batch k depends on (seed, split, k) alone.

  Args:
    c: all fields of `defaults`.
    split: "train" or "test".
    batch_size: global batch.
    seed: of the problems.
    build: (c, problems i64[b, 3], generator) -> batch, whose arrays have
      leading axis b or a multiple of it.
    process_index: this host.
    process_count: hosts.

  Raises:
    UserError: an unknown split, or sizes that cannot work.
  """
  if split == "test" and not c["holdout"]:
    raise UserError(
      f"there is no split {split!r} (holdout={c['holdout']})",
      "problems are split by a hash",
      "use 'train', or 'test' with holdout above 0",
    )
  digest = f"{c['digits']}{c['operations']}{c['holdout']}:{c['noise']}"
  shares = (c["judge_share"], c["positive_share"])
  if shares != (0.0, 0.5):
    digest += f":{shares[0]}:{shares[1]}"
  if c["hint_share"]:
    digest += f":hints {c['hint_share']}"

  def drawn(size, generator):
    index = draws.SPLITS.index(split)
    return build(c, _draw(c, index, size, generator), generator)

  return draws.Draws(
    drawn, split, batch_size, seed, digest, process_index, process_count
  )


def in_test(problems: np.ndarray, holdout: float) -> np.ndarray:
  """Which problems are held out: a hash of operation and operands.

  a+b and b+a, a*b and b*a count as one problem, so neither side of the split
  gives away the other.

  Args:
    problems: i64[n, 3], index in "+-*", a, b.
    holdout: share in [0, 1).

  Returns:
    bool[n].
  """
  op, a, b = (problems[:, i].astype(np.uint64) for i in range(3))
  swap = (op != ALPHABET.index("-") - 10) & (a > b)
  a, b = np.where(swap, b, a), np.where(swap, a, b)
  x = op + np.uint64(3) * (a * np.uint64(10**9) + b)
  with np.errstate(over="ignore"):  # splitmix64 wraps around
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    x = x ^ (x >> np.uint64(31))
  return (x >> np.uint64(11)).astype(np.float64) < holdout * 2.0**53


def _draw(c, split: int, n: int, generator) -> np.ndarray:
  """n problems of a split, uniform over it: i64[n, 3]."""
  ops = np.asarray([ALPHABET.index(o) - 10 for o in c["operations"]])
  found, size = [], 0
  for _ in range(_TRIES):
    count = max(64, 2 * (n - size))
    operands = generator.integers(0, 10 ** c["digits"], (count, 2))
    op = ops[generator.integers(0, len(ops), count)]
    drawn = np.column_stack([op, operands])
    drawn = drawn[in_test(drawn, c["holdout"]) == bool(split)]
    found.append(drawn)
    size += len(drawn)
    if size >= n:
      return np.concatenate(found)[:n]
  raise UserError(
    f"hardly any problems in split {draws.SPLITS[split]!r} with"
    f" digits={c['digits']}, holdout={c['holdout']}",
    "a batch of them could not be drawn",
    "set holdout between 0.05 and 0.5, or more digits",
  )


def _stream(
  config: Any, build: rows.Build, process_index: int = 0, process_count: int = 1
) -> Callable[[str, int, int], Any]:
  """(split, batch_size, seed) -> the batches of a config's stages."""
  c = _config(config)
  stages, sections = curriculum.plan(config, defaults(), levels())
  widest = max(s["digits"] for s in sections.values())

  def opened(split: str, batch_size: int, seed: int) -> Any:
    one = lambda level: problems(
      {**_checked(sections[level]), "widest": widest},
      split, batch_size, seed, build, process_index, process_count,
    )  # fmt: skip
    if split != "train":
      return one(stages[-1].level)
    return curriculum.training(c, stages, one, build == rows.prompts)

  return opened


def _config(config: Any) -> dict[str, Any]:
  """The section of the last stage, and the digits that rows have room for."""
  stages, sections = curriculum.plan(config, defaults(), levels())
  widest = max(_checked(s)["digits"] for s in sections.values())
  return {**sections[stages[-1].level], "widest": widest}


def _checked(c: dict[str, Any]) -> dict[str, Any]:
  if not isinstance(c["digits"], int) or not 1 <= c["digits"] <= 9:
    raise UserError(
      f"digits={c['digits']!r}", "it is the size of operands", "use 1 to 9"
    )
  ops = c["operations"]
  if not ops or set(ops) - set("+-*") or len(set(ops)) != len(ops):
    raise UserError(
      f"operations={ops!r}",
      "each is drawn equally often",
      "use one or more of '+', '-', '*', such as '+-'",
    )
  shares = ("noise", "judge_share", "hint_share", "positive_share")
  for name in ("holdout", *shares):
    share = c[name]
    top = 0.5 if name == "holdout" else 1
    if not isinstance(share, (int, float)) or not 0 <= share <= top:
      raise UserError(
        f"{name}={share!r}", "it is a share", f"use a number from 0 to {top}"
      )
  if c["holdout"] and c["digits"] == 1:
    grid = np.stack(np.meshgrid(range(3), range(10), range(10)), -1)
    here = [ALPHABET.index(o) - 10 for o in ops]
    grid = grid.reshape(-1, 3)
    grid = grid[np.isin(grid[:, 0], here)]
    if not in_test(grid, c["holdout"]).any():
      raise UserError(
        f"holdout={c['holdout']} of {len(grid)} problems holds out none",
        "the test split would be empty",
        "use a larger holdout or more digits",
      )
  return c
