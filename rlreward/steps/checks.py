"""What can be refused before anything compiles."""

from __future__ import annotations

from rlreward import errors
from rlreward.ops import mesh
from rlreward.sampling import decode
from rlreward.steps import batching, roles
from rlreward.types import Task

TRUNCATION = ("keep", "mask", "penalise")


def counts(config, names: tuple[str, ...]) -> None:
  """Fields that must be at least 1."""
  for name in names:
    if config[name] < 1:
      raise errors.UserError(
        f"{name}={config[name]}",
        "a run needs at least one of them",
        f"set {name}=1 or more",
      )
  if config.microbatch < 0:
    raise errors.UserError(
      f"microbatch={config.microbatch}",
      "it is the number of rows of one forward pass",
      "set microbatch=0 to take all rows at once",
    )


def choice(name: str, value: str, options: tuple[str, ...], why: str) -> None:
  """A field that must be one of a few words."""
  if value not in options:
    raise errors.UserError(
      f"{name}={value!r} is unknown",
      why,
      f"set {name} to one of {', '.join(options)}",
    )


def vocabulary(config, task: Task) -> None:
  """Ids of the tokenizer and stop ids must have rows in the embedding."""
  vocab = task.spec["vocab_size"]
  rows = roles.model_config(config.model).vocab
  if vocab > rows:
    raise errors.UserError(
      f"the tokenizer has {vocab} ids, the model {rows} rows",
      "ids beyond the embedding have no vector",
      f"set model.vocab to at least {vocab}, or use the model's tokenizer",
    )
  bad = [i for i in (*task.spec["stop_ids"], task.spec["pad_id"]) if i >= rows]
  if bad:
    raise errors.UserError(
      f"stop or pad ids {bad} lie beyond the model's {rows} rows",
      "the model can never produce them",
      "use ids of the model's vocabulary",
    )


def online(config, task: Task, spec: decode.Spec) -> None:
  """Refuses an online run that cannot train.

  Raises:
    UserError: see the messages.
  """
  counts(
    config,
    (
      "prompts_per_step",
      "samples_per_prompt",
      "steps",
      "updates_per_step",
      "epochs",
    ),
  )
  if config.prompts_per_step % config.updates_per_step:
    raise errors.UserError(
      f"updates_per_step={config.updates_per_step} does not divide"
      f" prompts_per_step={config.prompts_per_step}",
      "every update takes the same number of whole groups",
      "set updates_per_step to a divisor of prompts_per_step",
    )
  choice(
    "truncation",
    config.truncation,
    TRUNCATION,
    "it says what happens to rows cut off at max_new_tokens",
  )
  if config.truncation == "penalise" and not (
    0 < config.overlong_buffer <= config.sampling.max_new_tokens
  ):
    raise errors.UserError(
      f"overlong_buffer={config.overlong_buffer} with"
      f" max_new_tokens={config.sampling.max_new_tokens}",
      "the penalty is a slope of that many tokens below the limit",
      "set overlong_buffer in (0, max_new_tokens]",
    )
  choice(
    "reference",
    config.reference,
    ("auto", "always"),
    "it says when the reference model runs: if the loss needs it, or always",
  )
  if spec.truncated:
    raise errors.UserError(
      f"training samples with temperature={spec.temperature},"
      f" top_k={spec.top_k}, top_p={spec.top_p}, min_p={spec.min_p},"
      f" min_new_tokens={spec.min_new_tokens}",
      "the tokens would come from another distribution than the one whose"
      " log-probs are trained, so the gradient would be wrong",
      "train with temperature > 0 and top_k=0, top_p=1, min_p=0,"
      " min_new_tokens=0; truncate at evaluation instead",
    )
  batching.plan(
    config.prompts_per_step // config.updates_per_step,
    config.samples_per_prompt,
    config.microbatch,
    mesh.data_shards(),
  )
  vocabulary(config, task)
