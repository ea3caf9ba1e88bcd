"""The optimiser that a config names: AdamW behind a global-norm clip."""

from __future__ import annotations

import optax

from rlreward import errors
from rlreward.steps import checks

SCHEDULES = ("constant", "cosine", "linear")


def schedule(c, total_steps: int) -> optax.Schedule:
  """Warm-up from 0, then the named decay to `final_fraction` of the peak.

  Args:
    c: config section with learning_rate, warmup_steps, schedule and
      final_fraction.
    total_steps: updates of the whole run.

  Raises:
    UserError: unknown schedule, a rate that trains nothing, or warm-up as long
      as the run.
  """
  if c.schedule not in SCHEDULES:
    raise errors.UserError(
      f"optimizer.schedule={c.schedule!r} is unknown",
      f"the schedules are {', '.join(SCHEDULES)}",
      "set optimizer.schedule to one of them",
    )
  rate, share = c.learning_rate, c.final_fraction
  checks.ranges(
    "optimizer",
    (
      (
        "learning_rate",
        rate,
        0 < rate < float("inf"),
        "above 0, e.g. 1e-6 for a 7B model",
        "a rate of 0 or below trains nothing or away from the goal",
      ),
      (
        "warmup_steps",
        c.warmup_steps,
        c.warmup_steps >= 0,
        "0 (none) or more",
        "it is a number of updates",
      ),
      (
        "final_fraction",
        share,
        0 <= share <= 1,
        "from 0 to 1",
        "the rate falls from its peak to this share of it",
      ),
    ),
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

  Raises:
    UserError: a number out of its range; see also `schedule`.

  Reference: AdamW, arXiv 1711.05101.
  """
  mean = "a running mean with factor 1 never takes in a gradient"
  bound = "it bounds the norm of the gradient; 0 is no bound"
  decay = "a negative one makes the weights grow"
  zero = "a parameter without gradient would move by 0 / 0"
  checks.ranges(
    "optimizer",
    (
      ("b1", c.b1, 0 <= c.b1 < 1, "from 0 to below 1", mean),
      ("b2", c.b2, 0 <= c.b2 < 1, "from 0 to below 1", mean),
      ("eps", c.eps, c.eps > 0, "above 0, e.g. 1e-8", zero),
      ("weight_decay", c.weight_decay, c.weight_decay >= 0, "0 or more", decay),
      ("clip_norm", c.clip_norm, c.clip_norm >= 0, "0 or more", bound),
    ),
  )
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
