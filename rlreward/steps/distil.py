"""A teacher's whole distribution as objective: token KL over the vocabulary."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from rlreward import errors
from rlreward.models import score as score_lib
from rlreward.models import transformer
from rlreward.ops import distill, masked
from rlreward.steps import checks, objective, roles
from rlreward.types import Array


def teacher(config, actor: roles.Policy) -> transformer.Model:
  """The decoder of `config.teacher`.

  Raises:
    UserError: none, or one with another vocabulary.
  """
  c = config.teacher
  if not c.path:
    raise errors.UserError(
      f"{config.algorithm} without teacher.path",
      "the student is compared with a teacher",
      "set teacher.path to a checkpoint directory (see rlreward export)",
    )
  from rlreward.models import pretrained

  shape = pretrained.read_config(c.path).replace(
    dtype=config.model.dtype, param_dtype=config.model.param_dtype
  )
  own = actor.model.config.vocab
  if shape.vocab != own:
    raise errors.UserError(
      f"the teacher has {shape.vocab} ids, the student {own}",
      "their distributions are compared id by id",
      "use models of one family with the same tokenizer",
    )
  return transformer.build(shape)


def objective_of(
  config, actor: roles.Policy, slots: int
) -> objective.Objective:
  """Mean divergence of student and teacher over the tokens of rows.

  Args:
    config: sections `distill` and `teacher`.
    actor: the student.
    slots: T where answers are in the last slots, 0 for rows of any layout.

  Raises:
    UserError: a field that cannot be, or no teacher.
  """
  c = config.distill
  checks.choice("distill.kind", c.kind, distill.KINDS,
                "it is the divergence to the teacher")  # fmt: skip
  checks.ranges(
    "distill",
    (
      ("mix", c.mix, 0 < c.mix < 1, "between 0 and 1",
       "at the ends js is forward or reverse, which have their own names"),
      ("temperature", c.temperature, c.temperature > 0, "above 0",
       "logits are divided by it"),
      ("on_policy", c.on_policy, 0 <= c.on_policy <= 1, "from 0 to 1",
       "it is a share"),
    ),
  )  # fmt: skip
  master = teacher(config, actor)

  def states(model, variables, rows, share) -> Array:
    tokens, attend = rows["tokens"], rows["attend"]
    if not slots:
      segment = rows["segment"][:, :-1] if "segment" in rows else None
      return model.hidden(variables, tokens[:, :-1], attend[:, :-1], segment)
    p = tokens.shape[1] - slots
    return score_lib.completion_hidden(
      model, variables, tokens, attend, p, share
    )

  def mask_of(rows) -> Array:
    known = objective.valid(rows)[:, None]
    first = rows["tokens"].shape[1] - slots if slots else 1
    return rows["loss"][:, first:] & known

  def terms(variables, frozen, rows, share):
    own = states(actor.model, variables, rows, share)
    other = jax.lax.stop_gradient(
      states(master, frozen["teacher"], rows, share)
    )
    each = distill.token_divergence(
      own,
      actor.model.head(variables),
      other,
      master.head(frozen["teacher"]),
      kind=c.kind,
      mix=c.mix,
      temperature=c.temperature,
      student_softcap=actor.model.config.final_softcap,
      teacher_softcap=master.config.final_softcap,
    )
    total = masked.masked_sum(each, mask_of(rows))
    return total, {"divergence": jax.lax.stop_gradient(total)}

  return objective.Objective(
    together=1,
    needs=frozenset(),
    init=dict,
    prepare=objective.nothing,
    weight=lambda rows: jnp.sum(mask_of(rows), dtype=jnp.float32),
    terms=terms,
    given={"teacher": config.teacher},
    start=lambda key: {"teacher": master.init(jax.random.fold_in(key, 4))},
  )
