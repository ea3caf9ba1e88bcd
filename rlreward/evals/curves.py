"""Best-of-n, pass@k and votes as curves, with bands over prompts.

Everything is the mean over all n-subsets of the samples that are there, not
over a few random draws: at n = N no noise is left but that of the prompts.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from rlreward.analytic import best_of_n as exact
from rlreward.errors import UserError
from rlreward.evals import intervals

MOST = 20_000  # subsets that are listed, else as many are drawn


def _sizes(sizes: Sequence[int] | None, n: int) -> list[int]:
  """Those asked for, else powers of two up to N, and N."""
  if sizes is None:
    return sorted({*(2**i for i in range(int(math.log2(n)) + 1)), n})
  for size in sizes:
    if not 1 <= size <= n:
      raise UserError(
        f"n = {size} of {n} samples",
        "a subset cannot be larger than the pool",
        f"give sizes of 1 to {n}",
      )
  return list(sizes)


def _bands(
  value_BxS: np.ndarray, resamples: int, seed: int, level: float
) -> tuple[list[float], list[float]]:
  """Percentile bands of the means over prompts."""
  b = len(value_BxS)
  one = np.zeros(b)
  drawn = [
    times @ value_BxS / b
    for times in intervals.draws(one, np.arange(b), resamples, seed)
  ]
  pairs = [intervals.band(x, level) for x in np.transpose(drawn)]
  return [low for low, _ in pairs], [high for _, high in pairs]


def best_of_n(
  reward_BxN: np.ndarray,
  gold_BxN: np.ndarray | None = None,
  sizes: Sequence[int] | None = None,
  resamples: int = 1000,
  seed: int = 0,
  level: float = 0.95,
) -> dict[str, Any]:
  """Gold of the best of n by a reward, against n and its KL.

  Args:
    reward_BxN: f[B, N], what is maximised. NaN is no reward: such a sample is
      taken only from a subset without any, whose reward is then the prompt's
      least. Ties share.
    gold_BxN: f[B, N], what is wanted, e.g. correctness; None: the reward.
    sizes: n; None takes powers of two up to N.
    resamples: of the bootstrap over prompts.
    seed: of the bootstrap.
    level: of the bands.

  Returns:
    {"n", "kl": log n - (n - 1) / n in nats, a bound, "reward", "reward_low",
    "reward_high", "gold", "gold_low", "gold_high": lists over n, "prompts",
    "abstained": prompts left out, without any reward or with a gold missing}.

  Raises:
    UserError: sizes outside 1..N, or no prompt is left.

  Reference: over-optimisation curves, arXiv 2210.10760; ensembles of reward
  models, arXiv 2312.09244.
  """
  reward = np.asarray(reward_BxN, float)
  gold = reward if gold_BxN is None else np.asarray(gold_BxN, float)
  ns = _sizes(sizes, reward.shape[1])
  known = np.isfinite(reward)
  use = known.all(1) if gold_BxN is None else np.isfinite(gold).all(1)
  use &= known.any(1)
  if not use.any():
    raise UserError(
      f"none of {len(reward)} prompts has rewards and gold values",
      "there is nothing to average",
      "check that failed judgements are not all there is",
    )
  reward, gold = reward[use], gold[use]
  # Where all rewards of a subset are missing its reward is the prompt's least.
  least = np.nanmin(np.where(np.isfinite(reward), reward, np.nan), 1)
  filled = np.where(np.isfinite(reward), reward, least[:, None])
  ranked = jnp.asarray(np.where(np.isfinite(reward), reward, -np.inf))
  out: dict[str, Any] = {
    "n": ns,
    "kl": [math.log(n) - (n - 1) / n for n in ns],
    "prompts": int(use.sum()),
    "abstained": int((~use).sum()),
  }
  for name, value in (("reward", filled), ("gold", gold)):
    table = np.stack(
      [
        np.asarray(exact.value_unbiased(ranked, n, jnp.asarray(value)))
        for n in ns
      ],
      1,
    )
    out[name] = table.astype(float).mean(0).tolist()
    low, high = _bands(table, resamples, seed, level)
    out[f"{name}_low"], out[f"{name}_high"] = low, high
  return out


def pass_at_k(
  correct_BxN: np.ndarray,
  sizes: Sequence[int] | None = None,
  resamples: int = 1000,
  seed: int = 0,
  level: float = 0.95,
) -> dict[str, Any]:
  """pass@k, unbiased: what an oracle that picks among k would get.

  Args:
    correct_BxN: bool[B, N].
    sizes, resamples, seed, level: as of `best_of_n`.

  Returns:
    {"n", "value", "low", "high"}.

  Raises:
    UserError: sizes outside 1..N.

  Reference: arXiv 2107.03374.
  """
  correct = np.asarray(correct_BxN, bool)
  size = correct.shape[1]
  ns = _sizes(sizes, size)
  count = correct.sum(1)
  table = np.stack(
    [np.asarray(exact.pass_at_k(jnp.asarray(count), size, k)) for k in ns], 1
  )
  low, high = _bands(table, resamples, seed, level)
  value = table.astype(float).mean(0).tolist()
  return {"n": ns, "value": value, "low": low, "high": high}


def vote(
  answer_BxN: np.ndarray,
  correct_BxN: np.ndarray,
  weight_BxN: np.ndarray | None = None,
  sizes: Sequence[int] | None = None,
  resamples: int = 1000,
  seed: int = 0,
  level: float = 0.95,
) -> dict[str, Any]:
  """Accuracy of the answer with the most votes, or the most weight, of n.

    argmax_a sum_{i: a_i = a} w_i, joint winners share

  Without weights this is maj@n, in closed form. With weights all C(N, n)
  subsets are listed, or 20,000 of them drawn where there are more.

  Args:
    answer_BxN: i[B, N], ids of answers; those below 0 have no vote.
    correct_BxN: bool[B, N], whether the answer is right; of equal answers the
      first decides.
    weight_BxN: f[B, N], e.g. rewards or their sigmoid; NaN has no vote.
    sizes, resamples, seed, level: as of `best_of_n`.

  Returns:
    {"n", "value", "low", "high"}; a subset without any vote is wrong.

  Raises:
    UserError: sizes outside 1..N.

  Reference: self-consistency, arXiv 2203.11171; weighted by a verifier, arXiv
  2206.02336.
  """
  answer = np.asarray(answer_BxN, int)
  correct = np.asarray(correct_BxN, bool)
  size = answer.shape[1]
  ns = _sizes(sizes, size)
  valid = answer >= 0
  if weight_BxN is None:
    table = _majority(answer, correct, valid, ns)
  else:
    weight = np.asarray(weight_BxN, float)
    valid &= np.isfinite(weight)
    rng = np.random.default_rng(seed)
    table = np.stack(
      [
        _weighted(answer, correct, np.where(valid, weight, 0), valid,
                  _subsets(size, n, rng))
        for n in ns
      ],
      1,
    )  # fmt: skip
  low, high = _bands(table, resamples, seed, level)
  value = table.astype(float).mean(0).tolist()
  return {"n": ns, "value": value, "low": low, "high": high}


def _majority(
  answer: np.ndarray, correct: np.ndarray, valid: np.ndarray, ns: list[int]
) -> np.ndarray:
  """maj@n [B, S], exactly; different right answers are one and the same."""
  first = _decided(answer, correct)
  ids = np.where(first, -1, answer)
  gold = np.full(len(answer), -1)
  # Right answers that differ as ids still stand for election one by one.
  kinds = [len(set(answer[i][first[i] & valid[i]])) for i in range(len(answer))]
  if max(kinds, default=0) > 1:
    rng = np.random.default_rng(0)
    one = np.ones(answer.shape)
    parts = [
      _weighted(answer, correct, one, valid, _subsets(answer.shape[1], n, rng))
      for n in ns
    ]
    return np.stack(parts, 1)
  given = jnp.asarray(ids), jnp.asarray(gold)
  may = jnp.asarray(valid)
  return np.stack(
    [np.asarray(exact.majority_at_k(*given, n, may)) for n in ns], 1
  )


def _decided(answer: np.ndarray, correct: np.ndarray) -> np.ndarray:
  """bool[B, N], correctness of the first sample with the same answer."""
  same = answer[:, :, None] == answer[:, None]
  first = np.argmax(same, axis=2)
  return np.take_along_axis(correct, first, axis=1)


def _subsets(size: int, n: int, rng: np.random.Generator) -> np.ndarray:
  """[subsets, n], all of them, or `MOST` at random."""
  if math.comb(size, n) <= MOST:
    return np.asarray(list(itertools.combinations(range(size), n)))
  order = np.argsort(rng.random((MOST, size)), axis=1)
  return order[:, :n]


def _weighted(
  answer: np.ndarray,
  correct: np.ndarray,
  weight: np.ndarray,
  valid: np.ndarray,
  subset_SxN: np.ndarray,
) -> np.ndarray:
  """[B], mean over subsets of the share of joint winners that is right."""
  right = _decided(answer, correct)
  out = np.zeros(len(answer))
  for i in range(len(answer)):
    a, w = answer[i][subset_SxN], weight[i][subset_SxN]
    v, good = valid[i][subset_SxN], right[i][subset_SxN]
    same = (a[:, :, None] == a[:, None]) & v[:, None]
    total = np.sum(np.where(same, w[:, None], 0), axis=2)
    first = v & (np.argmax(same, axis=2) == np.arange(a.shape[1]))
    total = np.where(first, total, -np.inf)
    top = np.max(total, axis=1, keepdims=True)
    # Sums of the same weights in another order are equal up to rounding.
    slack = 1e-12 * np.sum(np.abs(w), axis=1, keepdims=True)
    tied = first & (total >= np.where(np.isfinite(top), top, 0) - slack)
    hits, all_ = (tied & good).sum(1), tied.sum(1)
    out[i] = np.mean(hits / np.maximum(all_, 1))
  return out


def trials(accuracy_TxS: np.ndarray) -> dict[str, list[float]]:
  """Mean and population deviation over repeated random draws.

  Args:
    accuracy_TxS: f[T, S], accuracy of each trial at each n.

  Returns:
    {"mean", "std"}, lists over n.
  """
  table = np.asarray(accuracy_TxS, float)
  return {"mean": table.mean(0).tolist(), "std": table.std(0).tolist()}
