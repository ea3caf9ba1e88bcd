"""What a shaping makes of rewards outside a run: closed forms and tables."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np

from rlreward.types import STOP, Array, Rollout, Score, Shaping


def values(
  shaping: Shaping,
  reward: Any,
  refs: Any = (),
  length: Any = None,
) -> Array:
  """A shaping's first update of a batch of rewards.

  Args:
    shaping: on the value of a score.
    reward: f32[N], all of them judged. Running moments are those of these N.
    refs: f32[M] or f32[N, M], rewards of answers of the reference.
    length: i32[N], tokens of each answer; None is 1 for each.

  Returns:
    f32[N], NaN where the shaping takes the judgement away.
  """
  r = jnp.asarray(reward, jnp.float32)
  n = r.shape[0]
  size = np.ones(n, int) if length is None else np.asarray(length)
  action = jnp.asarray(np.arange(size.max(initial=1)) < size[:, None])
  blank = jnp.zeros(action.shape)
  refs = jnp.asarray(refs, jnp.float32)
  beside = jnp.broadcast_to(refs, (n, refs.shape[-1]))
  rollout = Rollout(
    tokens=blank.astype(jnp.int32),
    attend=action,
    action=action,
    loss=action,
    logp=blank,
    group=jnp.zeros(n, jnp.int32),
    finish=jnp.full(n, STOP, jnp.int32),
    version=jnp.zeros((), jnp.int32),
    extras={"beside/value": beside},
  )
  score = Score(r, jnp.ones(n, bool), None, {})
  after, _ = shaping.update(score, shaping.init(), rollout)
  return jnp.where(after.valid, after.value, jnp.nan)
