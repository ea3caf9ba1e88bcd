"""The policy as judge of its own answers, inside the compiled step."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from rlreward import errors
from rlreward.models import transformer
from rlreward.ops import masked, mesh
from rlreward.steps import accumulate, batching, roles
from rlreward.types import STOP, Rollout, Score, State, Task


def make(config, task: Task) -> Callable[[State, Rollout, Score], Score]:
  """(state, rollout, score) -> Score by the policy that is trained.

    value = sum_k v_k p(k | prompt, answer, suffix) over the rating tokens k

  The answer is read without its stop token, as judged answers are written.

  Args:
    config: section `model`.
    task: `spec["judge"]` has `suffix` (ids), `ratings` (ids) and `values`.

  Raises:
    UserError: a task that says no words to judge by.
  """
  spec = task.spec.get("judge")
  if not spec:
    raise errors.UserError(
      f"{config.algorithm} on task {config.task.name!r}",
      "the policy judges its answers, and the task has no words to ask with",
      "use a task with spec['judge'], such as arithmetic with judge_share=0.3",
    )
  actor = roles.policy(config.model)
  suffix = np.asarray(spec["suffix"], np.int32)
  ratings = np.asarray(spec["ratings"], np.int32)
  values = np.asarray(spec["values"], np.float32)

  def rate(variables, rows: Rollout):
    n = rows.tokens.shape[0]
    last = masked.last_index(rows.action)[:, None]
    slot = jnp.arange(rows.tokens.shape[1]) == last
    stopped = slot & (rows.finish == STOP)[:, None]
    wide = jnp.broadcast_to(suffix, (n, suffix.shape[0]))
    tokens = jnp.concatenate([rows.tokens, wide], 1)
    attend = jnp.concatenate(
      [rows.attend & ~stopped, jnp.ones(wide.shape, bool)], 1
    )
    model = actor.model
    hidden = model.hidden(variables, tokens, attend)[:, -1]
    logits = transformer.logits_of(model.config, hidden, model.head(variables))
    chance = jax.nn.softmax(logits[:, ratings], -1)
    return jnp.sum(chance * values, -1)

  def judge(state: State, rollout: Rollout, score: Score) -> Score:
    n, b = rollout.tokens.shape[0], config.prompts_per_step
    plan = batching.plan(b, n // b, config.microbatch, mesh.data_shards())
    variables = actor.variables(state.params, state.frozen)
    value = accumulate.pieces(plan, lambda x: rate(variables, x), rollout)
    value = jax.lax.stop_gradient(value)
    return score._replace(value=value, valid=jnp.ones(n, bool))

  return judge
