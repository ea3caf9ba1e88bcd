"""The best-of-N law of a reference, from rewards of samples of it."""

from __future__ import annotations

import chex
import jax.numpy as jnp
from jax import lax

from rlreward.ops import masked
from rlreward.types import Array


def log_ratio(
  reward_BxG: Array, anchor_BxM: Array, anchor_valid_BxM: Array, n: int
) -> Array:
  """log pi_N(y) / ref(y) of the best of n, from M samples of the reference.

    pi_N(y) / ref(y) = (F^n - F_-^n) / (F - F_-)
    F = (1 + #{anchor <= r}) / (M + 1),  F_- = #{anchor < r} / (M + 1)

  F and F_- are the shares of the reference at most and below r; the sample
  counts as one of its own ties, which keeps F above F_-. Ties are shared as a
  random choice among them shares them. Without ties and for many anchors it is
  log n + (n - 1) log F.

  Args:
    reward_BxG: rewards of samples.
    anchor_BxM: rewards of samples of the reference to the same prompts.
    anchor_valid_BxM: bool.
    n: of best-of-n.

  Returns:
    f32[B, G] without gradient; its KL-regularised optimum at beta 1 is pi_N.

  Raises:
    ValueError: n below 1.

  Reference: BOND 2407.14622; vBoN 2407.06057 keeps (n - 1) log F of it.
  """
  chex.assert_rank([reward_BxG, anchor_BxM], 2)
  chex.assert_equal_shape([anchor_BxM, anchor_valid_BxM])
  if n < 1:
    raise ValueError(f"n must be at least 1, got {n}")
  anchor = masked.clean(anchor_BxM, anchor_valid_BxM)[:, None, :]
  known = anchor_valid_BxM[:, None, :]
  reward = reward_BxG[..., None]
  count = jnp.sum(anchor_valid_BxM, 1, keepdims=True) + 1.0
  at_most = (1.0 + jnp.sum(known & (anchor <= reward), -1)) / count
  below = jnp.sum(known & (anchor < reward), -1) / count
  share = jnp.exp(n * (jnp.log(jnp.maximum(below, 1e-30)) - jnp.log(at_most)))
  share = jnp.where(below > 0, share, 0)
  found = n * jnp.log(at_most) + jnp.log1p(-share)
  return lax.stop_gradient(found - jnp.log(at_most - below))
