"""The optimiser that a config names: AdamW behind a global-norm clip."""

from __future__ import annotations

import optax

from rlreward import errors

SCHEDULES = ("constant", "cosine", "linear")


def schedule(c, total_steps: int) -> optax.Schedule:
  """Warm-up from 0, then the named decay to `final_fraction` of the peak.

  Args:
    c: config section with learning_rate, warmup_steps, schedule and
      final_fraction.
    total_steps: updates of the whole run.

  Raises:
    UserError: unknown schedule, negative rate, or warm-up as long as the run.
  """
  if c.schedule not in SCHEDULES:
    raise errors.UserError(
      f"optimizer.schedule={c.schedule!r} is unknown",
      f"the schedules are {', '.join(SCHEDULES)}",
      "set optimizer.schedule to one of them",
    )
  if not c.learning_rate > 0:
    raise errors.UserError(
      f"optimizer.learning_rate={c.learning_rate}",
      "a rate of 0 or below trains nothing or away from the goal",
      "set optimizer.learning_rate above 0, e.g. 1e-6 for a 7B model",
    )
  if c.warmup_steps and c.warmup_steps >= total_steps:
    raise errors.UserError(
      f"optimizer.warmup_steps={c.warmup_steps} in a run of {total_steps}"
      " updates",
      "the learning rate would never reach its peak",
      f"set optimizer.warmup_steps below {total_steps}",
    )
  peak, end = c.learning_rate, c.learning_rate * c.final_fraction
  rest = max(1, total_steps - c.warmup_steps)
  tail = {
    "constant": optax.constant_schedule(peak),
    "linear": optax.linear_schedule(peak, end, rest),
    "cosine": optax.cosine_decay_schedule(peak, rest, c.final_fraction),
  }[c.schedule]
  if not c.warmup_steps:
    return tail
  ramp = optax.linear_schedule(0.0, peak, c.warmup_steps)
  return optax.join_schedules([ramp, tail], [c.warmup_steps])


def make(c, total_steps: int) -> optax.GradientTransformation:
  """AdamW with a schedule, behind a clip by global norm where one is set.

  Args:
    c: config section (see `configs/common.py`); `clip_norm` 0 means no clip.
    total_steps: updates of the whole run.

  Reference: AdamW, arXiv 1711.05101.
  """
  adam = optax.adamw(
    schedule(c, total_steps),
    b1=c.b1,
    b2=c.b2,
    eps=c.eps,
    weight_decay=c.weight_decay,
  )
  if not c.clip_norm:
    return adam
  return optax.chain(optax.clip_by_global_norm(c.clip_norm), adam)
