"""Which samples to keep: best of K, global shares, correct ones, pairs, votes.

Everything can be jitted. A sample counts when it is valid and its reward is
above -inf: NaN is no reward, and -inf is how a reward says "drop this". Ties
are drawn uniformly with the key, else sampling order leaks.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from rlreward.ops import masked
from rlreward.types import Array, PyTree


def usable(reward: Array, valid: Array) -> Array:
  """Samples that may be selected: valid, not NaN, above -inf.

  Args:
    reward: any shape.
    valid: bool of the same shape.

  Returns:
    bool of the same shape.
  """
  chex.assert_equal_shape([reward, valid])
  return valid & (masked.clean(reward, valid) > -jnp.inf)


def _argmax(score_BxK: Array, counts_BxK: Array, key: Array) -> Array:
  """i32[B], a largest score among those that count; 0 where none does."""
  score = jnp.where(counts_BxK, score_BxK, -jnp.inf)
  tied = counts_BxK & (score == jnp.max(score, axis=1, keepdims=True))
  noise = jax.random.uniform(key, score.shape)
  return jnp.argmax(jnp.where(tied, noise, -1), axis=1).astype(jnp.int32)


def _order(score: Array, counts: Array, heat: Any, key: Array) -> Array:
  """i32[B, K], indices by falling score + heat * Gumbel, ties by the Gumbel."""
  score = jnp.where(counts, score, -jnp.inf)
  top = jnp.max(score, axis=1, keepdims=True)
  gap = jnp.where(score == top, 0, score - top)
  noise = jax.random.gumbel(key, score.shape, gap.dtype)
  index = lax.broadcasted_iota(jnp.int32, score.shape, 1)
  rank = (~counts, -(gap + heat * noise), -noise, index)
  return lax.sort(rank, dimension=1, num_keys=3)[3]


def best_of_k(
  reward_BxK: Array, valid_BxK: Array, key: Array
) -> tuple[Array, Array]:
  """Index of the best sample of each prompt.

  Args:
    reward_BxK: rewards; anything where not valid.
    valid_BxK: bool.
    key: typed PRNG key for ties.

  Returns:
    (i32[B], bool[B]); index 0 and false where no sample counts.

  Reference: RAFT, 2304.06767.
  """
  counts = usable(reward_BxK, valid_BxK)
  return _argmax(reward_BxK, counts, key), jnp.any(counts, axis=1)


def worst_of_k(
  reward_BxK: Array, valid_BxK: Array, key: Array
) -> tuple[Array, Array]:
  """Index of the worst sample of each prompt that counts.

  Args, Returns: as `best_of_k`.
  """
  counts = usable(reward_BxK, valid_BxK)
  return _argmax(-reward_BxK, counts, key), jnp.any(counts, axis=1)


def best_worst_pair(
  reward_BxK: Array, valid_BxK: Array, key: Array
) -> tuple[Array, Array, Array]:
  """(chosen, rejected) of each prompt: its best and its worst sample.

  Args:
    reward_BxK: rewards or judge scores; anything where not valid.
    valid_BxK: bool.
    key: typed PRNG key for ties.

  Returns:
    (i32[B], i32[B], bool[B]); false where fewer than two unequal ones count.

  Reference: Self-Rewarding Language Models, 2401.10020.
  """
  high, low = jax.random.split(key)
  best, keep = best_of_k(reward_BxK, valid_BxK, high)
  worst, _ = worst_of_k(reward_BxK, valid_BxK, low)
  at = lambda i: jnp.take_along_axis(reward_BxK, i[:, None], axis=1)[:, 0]
  return best, worst, keep & (at(best) > at(worst))


def top_fraction(
  reward_N: Array, valid_N: Array, fraction: float, key: Array
) -> Array:
  """The global top share: ceil(fraction * number that count) rows.

  Rewards are compared across prompts, so hard prompts starve.

  Args:
    reward_N: rewards; anything where not valid.
    valid_N: bool.
    fraction: share to keep, a Python number in (0, 1].
    key: typed PRNG key for ties.

  Returns:
    bool[N].

  Raises:
    ValueError: a fraction outside (0, 1].

  Reference: RAFT ("top"), 2304.06767.
  """
  chex.assert_rank([reward_N, valid_N], 1)
  if not 0 < fraction <= 1:
    raise ValueError(f"fraction must lie in (0, 1], got {fraction}")
  counts = usable(reward_N, valid_N)
  # In float64 and short of rounding: .1 of 30 rows is 3 rows, never 4.
  size = np.ceil(fraction * np.arange(reward_N.shape[0] + 1) - 1e-9)
  keep = jnp.asarray(size, jnp.int32)[jnp.sum(counts)]
  order = _order(reward_N[None], counts[None], 0, key)
  return counts & (jnp.argsort(order[0]) < keep)


def threshold(reward_N: Array, valid_N: Array, at: float | Array) -> Array:
  """Samples that count with reward >= at.

  Args:
    reward_N: rewards of any shape; anything where not valid.
    valid_N: bool.
    at: the smallest reward to keep, broadcastable.

  Returns:
    bool of the same shape.
  """
  counts = usable(reward_N, valid_N)
  return counts & (masked.clean(reward_N, counts) >= at)


def duplicates(
  tokens_BxKxT: Array, mask_BxKxT: Array, valid_BxK: Array | None = None
) -> Array:
  """Samples that repeat an earlier sample of their prompt, token by token.

  Args:
    tokens_BxKxT: token ids, aligned within a prompt.
    mask_BxKxT: bool, slots to compare; masks must agree too.
    valid_BxK: bool, others neither are copies nor have any: the copy of an
      unjudged sample can be kept. None means all.

  Returns:
    bool[B, K]; the first of each set of copies is false.
  """
  chex.assert_rank([tokens_BxKxT, mask_BxKxT], 3)
  chex.assert_equal_shape([tokens_BxKxT, mask_BxKxT])
  batch, samples, _ = tokens_BxKxT.shape
  valid = jnp.ones((batch, samples), bool) if valid_BxK is None else valid_BxK
  later = jnp.arange(samples)

  def body(j, found):
    token = lax.dynamic_index_in_dim(tokens_BxKxT, j, axis=1)
    mask = lax.dynamic_index_in_dim(mask_BxKxT, j, axis=1)
    same = (mask == mask_BxKxT) & ((token == tokens_BxKxT) | ~mask_BxKxT)
    original = lax.dynamic_index_in_dim(valid, j, axis=1)
    return found | (jnp.all(same, axis=2) & original & (later > j))

  # One sample against the others at a time: no array of B * K * K * T.
  found = lax.fori_loop(0, samples, body, jnp.zeros((batch, samples), bool))
  return found & valid


def correct(
  reward_BxK: Array,
  valid_BxK: Array,
  duplicate_BxK: Array,
  cap: int | Array,
  key: Array,
  at: float | Array = 1.0,
) -> Array:
  """At most `cap` distinct correct samples of each prompt, drawn at random.

  Args:
    reward_BxK: rewards; anything where not valid.
    valid_BxK: bool.
    duplicate_BxK: bool, copies of an earlier sample, see `duplicates`.
    cap: largest number per prompt.
    key: typed PRNG key.
    at: a sample is correct from this reward on.

  Returns:
    bool[B, K].

  Reference: ReST-EM, 2312.06585; STaR, 2203.14465.
  """
  chex.assert_equal_shape([reward_BxK, valid_BxK, duplicate_BxK])
  right = threshold(reward_BxK, valid_BxK, at) & ~duplicate_BxK
  order = _order(jnp.zeros(right.shape), right, 0, key)
  return right & (jnp.argsort(order, axis=1) < cap)


def without_replacement(
  reward_BxK: Array,
  valid_BxK: Array,
  k: int,
  temperature: float | Array,
  key: Array,
) -> Array:
  """k distinct samples, each next one with prob softmax(reward / temperature).

  Gumbel top-k: the k largest reward + temperature * noise, in the order drawn.

  Args:
    reward_BxK: rewards; anything where not valid.
    valid_BxK: bool.
    k: how many, at most K.
    temperature: units of reward; 0 takes the k best, ties at random.
    key: typed PRNG key.

  Returns:
    i32[B, k]. Where n < k samples count (see `usable`) slots from n on repeat
    the first draw; 0 where none counts.

  Raises:
    ValueError: k outside 1..K.

  Reference: Stochastic Beams and Where to Find Them, 1903.06059.
  """
  chex.assert_rank([reward_BxK, valid_BxK], 2)
  if not 1 <= k <= reward_BxK.shape[1]:
    raise ValueError(f"k must lie in 1..{reward_BxK.shape[1]}, got {k}")
  counts = usable(reward_BxK, valid_BxK)
  order = _order(reward_BxK, counts, temperature, key)[:, :k]
  number = jnp.sum(counts, axis=1, keepdims=True)
  order = jnp.where(jnp.arange(k) < number, order, order[:, :1])
  return jnp.where(number > 0, order, 0)


def soft_best_of_n(
  reward_BxK: Array, valid_BxK: Array, beta: float | Array, key: Array
) -> Array:
  """One sample of each prompt with probability softmax(reward / beta).

  Args:
    reward_BxK: rewards; anything where not valid.
    valid_BxK: bool.
    beta: units of reward; 0 is best-of-n, large values draw from the base.
    key: typed PRNG key.

  Returns:
    i32[B]; 0 where no sample counts.

  Reference: Soft Best-of-n Sampling, 2505.03156.
  """
  return without_replacement(reward_BxK, valid_BxK, 1, beta, key)[:, 0]


def weighted_vote(
  answer_BxK: Array,
  weight_BxK: Array,
  valid_BxK: Array,
  key: Array | None,
  none: int = -1,
) -> Array:
  """The answer with the largest summed weight: argmax_a sum_{i: a_i = a} w_i.

  Args:
    answer_BxK: i32, answer ids; any integers.
    weight_BxK: e.g. a reward or its sigmoid; NaN and -inf do not vote.
    valid_BxK: bool.
    key: typed PRNG key for ties (totals equal up to rounding); None takes the
      answer seen first.
    none: id to return where nobody votes.

  Returns:
    i32[B].

  Reference: self-consistency, 2203.11171; weighted by a verifier, 2206.02336.
  """
  chex.assert_rank(answer_BxK, 2)
  chex.assert_equal_shape([answer_BxK, weight_BxK, valid_BxK])
  counts = usable(weight_BxK, valid_BxK)
  weight = masked.clean(weight_BxK, counts)
  samples = weight.shape[1]
  same = (answer_BxK[:, :, None] == answer_BxK[:, None]) & counts[:, None]
  total = jnp.sum(jnp.where(same, weight[:, None], 0), axis=2)
  # Ties are between answers, so each answer stands for election once.
  first = counts & (jnp.argmax(same, axis=2) == jnp.arange(samples))
  total = jnp.where(first, total, -jnp.inf)
  top = jnp.max(total, axis=1, keepdims=True)
  rounding = samples * jnp.finfo(weight.dtype).eps
  slack = rounding * jnp.sum(jnp.abs(weight), axis=1, keepdims=True)
  tied = first & ((total == top) | (total >= top - slack))
  index = jnp.argmax(tied, axis=1)
  if key is not None:
    index = _argmax(jnp.zeros_like(total), tied, key)
  answer = jnp.take_along_axis(answer_BxK, index[:, None], axis=1)[:, 0]
  return jnp.where(jnp.any(counts, axis=1), answer, none).astype(jnp.int32)


def majority(
  answer_BxK: Array, valid_BxK: Array, key: Array | None, none: int = -1
) -> Array:
  """The most frequent answer of each prompt: a `weighted_vote` of ones.

  Args:
    answer_BxK: i32, answer ids; any integers.
    valid_BxK: bool.
    key: typed PRNG key for ties; None takes the answer seen first.
    none: id to return where no sample is valid.

  Returns:
    i32[B].
  """
  weight = jnp.ones(answer_BxK.shape, jnp.float32)
  return weighted_vote(answer_BxK, weight, valid_BxK, key, none)


class Best(NamedTuple):
  """The best sample seen so far of each prompt.

  Attributes:
    reward: f32[B], -inf before any sample.
    count: i32[B], how many samples had that reward; 0 before any sample.
    payload: tree of [B, ...], what belongs to the sample.
  """

  reward: Array
  count: Array
  payload: PyTree


def nothing_yet(payload: PyTree) -> Best:
  """The `Best` to start from.

  Args:
    payload: tree of [B, ...] arrays; they stay where no sample ever counts.

  Returns:
    Reward -inf, count 0.
  """
  zero = jnp.zeros(jax.tree.leaves(payload)[0].shape[0], jnp.int32)
  return Best(zero - jnp.inf, zero, payload)


def running_best(
  best: Best,
  reward_BxK: Array,
  payload_BxK: PyTree,
  valid_BxK: Array,
  key: Array,
) -> Best:
  """Best-of-N over chunks of K samples, in the memory of one chunk.

  A chunk with c ties with the best so far takes over with probability
  c / (count + c): the winner is uniform among the ties of all chunks.

  Args:
    best: of the chunks before, see `nothing_yet`.
    reward_BxK: rewards of this chunk; anything where not valid.
    payload_BxK: tree of [B, K, ...] arrays, the chunk's samples.
    valid_BxK: bool.
    key: typed PRNG key, another one for each chunk.

  Returns:
    The best of all chunks so far.
  """
  inside, across = jax.random.split(key)
  counts = usable(reward_BxK, valid_BxK)
  reward = jnp.where(counts, reward_BxK, -jnp.inf)
  index = _argmax(reward, counts, inside)
  top = jnp.max(reward, axis=1)
  ties = jnp.sum(counts & (reward == top[:, None]), axis=1, dtype=jnp.int32)
  even = top == best.reward
  total = jnp.where(even, best.count, 0) + ties
  win = jax.random.uniform(across, top.shape) * total < ties
  take = (top > best.reward) | (even & win)

  def merge(old, new):
    new = new[jnp.arange(index.shape[0]), index]
    return jnp.where(take.reshape((-1,) + (1,) * (old.ndim - 1)), new, old)

  return Best(
    jnp.maximum(top, best.reward).astype(best.reward.dtype),
    jnp.where(top >= best.reward, total, best.count),
    jax.tree.map(merge, best.payload, payload_BxK),
  )
