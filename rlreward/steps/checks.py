"""What can be refused before anything compiles."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import jax

from rlreward import errors
from rlreward.ops import mesh
from rlreward.ops import preference as preference_lib
from rlreward.sampling import decode
from rlreward.steps import batching, roles
from rlreward.types import Task

TRUNCATION = ("keep", "mask", "penalise")
KL = ("forward", "reverse")
REFERENCE = ("auto", "always", "data")
_LOOP = (
  ("log.every", 1, "it is the number of steps between progress lines"),
  ("log.samples_every", 0, "it is the number of steps between; 0 is never"),
  ("checkpoint.every", 1, "it is the number of steps between checkpoints"),
  ("checkpoint.keep", 1, "a run resumes from the last one"),
  ("eval.prompts", 1, "the first and the last step are evaluated on them"),
  ("eval.every", 0, "it is the number of steps between; 0 is at the ends"),
  ("refill_rounds", 0, "it is the number of rollouts added; 0 is none"),
  ("overlong_buffer", 0, "it is a number of tokens; 0 is none"),
  ("microbatch", 0, "it is the number of rows of a forward pass; 0 is all"),
  ("ahead", 0, "it is the age of the policy that samples, 0 or 1 steps"),
)


def counts(config, names: tuple[str, ...]) -> None:
  """Fields that must be at least 1, and what the loop of every run counts."""
  why = "a run needs at least one of them"
  for name, least, why in (*((n, 1, why) for n in names), *_LOOP):
    section, _, last = name.rpartition(".")
    value = (config[section] if section else config)[last]
    if value < least:
      raise errors.UserError(
        f"{name}={value}", why, f"set {name}={least} or more"
      )


def choice(name: str, value: str, options: tuple[str, ...], why: str) -> None:
  """A field that must be one of a few words."""
  if value not in options:
    raise errors.UserError(
      f"{name}={value!r} is unknown",
      why,
      f"set {name} to one of {', '.join(options)}",
    )


def loss(c) -> None:
  """The `loss` section: clips, the KL's name and coefficients.

  Args:
    c: see `configs/common.py`; None leaves a clip to the algorithm.

  Raises:
    UserError: a bound or a coefficient that cannot be.
  """
  low = 0 if c.clip_low is None else c.clip_low
  high = 0 if c.clip_high is None else c.clip_high
  dual = 2 if c.dual_clip is None else c.dual_clip
  beta, entropy = c.kl_beta, c.entropy
  away = "a negative coefficient drives the policy away from its reference"
  bound = "it bounds the ratio where the advantage is negative, from above"
  finite = "it is a coefficient of the loss"
  ranges(
    "loss",
    (
      ("clip_low", low, 0 <= low <= 1, "from 0 to 1", "the ratio is positive"),
      ("clip_high", high, high >= 0, "0 or more", "the ratio may exceed 1"),
      ("dual_clip", dual, dual > 1, "above 1, or None (off)", bound),
      ("kl_beta", beta, 0 <= beta < math.inf, "0 (off) or more", away),
      ("entropy", entropy, abs(entropy) < math.inf, "a finite number", finite),
      ("kl_stop", c.kl_stop, c.kl_stop >= 0, "0 (never) or more", "it is a KL"),
    ),
  )
  choice("loss.kl", c.kl, KL, "it says which KL the gradient lowers")


def kl_reward(config) -> None:
  """The `kl_reward` section; a KL in the loss beside it is refused.

  Raises:
    UserError: see the messages.
  """
  c = config.kl_reward
  away = "a negative coefficient drives the policy away from its reference"
  ranges(
    "kl_reward",
    (
      ("beta", c.beta, 0 <= c.beta < math.inf, "0 (off) or more", away),
      ("target", c.target, c.target >= 0, "0 (off) or nats", "it is a KL"),
      ("horizon", c.horizon, c.horizon > 0, "above 0", "it is a time"),
      ("budget", c.budget, 0 <= c.budget < math.inf, "0 (off) or nats",
       "it is a KL"),
    ),
  )  # fmt: skip
  named = "budget" if c.budget else "beta"
  if c[named] and config.loss.kl_beta:
    raise errors.UserError(
      f"kl_reward.{named}={c[named]} and loss.kl_beta={config.loss.kl_beta}",
      "the KL to the reference would be paid for twice",
      "set one of them to 0",
    )
  if c.budget and (c.beta or c.target):
    raise errors.UserError(
      f"kl_reward.budget={c.budget} with beta={c.beta}, target={c.target}",
      "the budget alone decides the coefficient",
      "set kl_reward.beta=0 and kl_reward.target=0",
    )
  if c.budget and config.samples_per_prompt < 2:
    raise errors.UserError(
      f"kl_reward.budget={c.budget} with samples_per_prompt=1",
      "what a KL can buy is read from the spread of a prompt's rewards",
      "set samples_per_prompt=8, or steer with kl_reward.target",
    )
  if c.target and not c.beta:
    raise errors.UserError(
      f"kl_reward.target={c.target} with kl_reward.beta=0",
      "the controller multiplies beta, and 0 stays 0",
      "set kl_reward.beta to its start, e.g. 0.05",
    )


def credit(c) -> None:
  """The `credit` section.

  Raises:
    UserError: a discount that cannot be.
  """
  share = "it is a share of what follows"
  rules = []
  for name in ("gamma", "lam", "decay"):
    rules.append((name, c[name], 0 <= c[name] <= 1, "from 0 to 1", share))
  ranges("credit", rules)
  choice("credit.target", c.target, ("gae", "return"),
         "it is what the critic predicts")  # fmt: skip


def preference(config, kind: str, beta, smoothing, margin) -> None:
  """The `preference` section with what the algorithm makes of it.

  Args:
    config: the run's.
    kind: shape of the pair's loss.
    beta: its scale.
    smoothing: of labels.
    margin: of the target.

  Raises:
    UserError: see the messages.
  """
  c = config.preference
  choice("preference.kind", kind, preference_lib.KINDS,
         "it is the shape of a pair's loss")  # fmt: skip
  choice("preference.divergence", c.divergence, preference_lib.DIVERGENCES,
         "it is what keeps the policy near its reference")  # fmt: skip
  choice("preference.normalise", c.normalise, ("", "sum", "mean"),
         "it is over the tokens of an answer")  # fmt: skip
  choice("reference", config.reference, REFERENCE,
         "it says where the reference's log-probs come from")  # fmt: skip
  pull = "negative weights pull the wrong way"
  ranges(
    "preference",
    (
      ("beta", beta, 0 < beta < math.inf, "above 0", "it scales log-ratios"),
      ("nll", c.nll, c.nll is None or c.nll >= 0, "0 or more", pull),
      ("desirable", c.desirable, c.desirable >= 0, "0 or more", pull),
      ("undesirable", c.undesirable, c.undesirable >= 0, "0 or more", pull),
      ("explore", c.explore, c.explore >= 0, "0 or more", pull),
      ("mixture", c.mixture, 0 <= c.mixture <= 1, "0 to 1", "it is a share"),
    ),
  )
  rows = jax.ShapeDtypeStruct((2,), "float32")
  try:
    jax.eval_shape(
      lambda a, b: preference_lib.pairwise(
        a, b, beta=beta, kind=kind, label_smoothing=smoothing, margin=margin,
        reference_margin_P=a,
      ), rows, rows)  # fmt: skip
  except ValueError as error:
    raise errors.UserError(
      f"preference.kind={kind!r}: {error}",
      "that shape of the loss would not be what it is called",
      "change the field that is named, or preference.kind",
    ) from None
  if kind.startswith("aot") and config.microbatch:
    raise errors.UserError(
      f"preference.kind={kind!r} with microbatch={config.microbatch}",
      "it sorts the whole batch, which microbatches would cut",
      "set microbatch=0",
    )


def best_of_n(config) -> None:
  """The `best_of_n` section.

  Raises:
    UserError: see the messages.
  """
  c = config.best_of_n
  ranges(
    "best_of_n",
    (
      ("n", c.n, c.n >= 1, "1 or more", "it is a number of samples"),
      ("anchors", c.anchors, c.anchors >= 1, "1 or more",
       "the law of the reference is estimated from them"),
      ("temperature", c.temperature, c.temperature > 0, "above 0",
       "rewards are divided by it"),
    ),
  )  # fmt: skip
  choice("best_of_n.pick", c.pick, ("best", "soft", "majority", "weighted"),
         "it is how one of the samples is chosen")  # fmt: skip


def decoder(c) -> None:
  """The `model` section where it is not a checkpoint's, and the adapter.

  Args:
    c: see `configs/common.py`.

  Raises:
    UserError: sizes that cannot work; the others are checked as it is built.
  """
  if not c.path:
    theta, eps = c.rope_theta, c.norm_eps
    ranges(
      "model",
      (
        ("mlp", c.mlp, c.mlp >= 1, "1 or more", "it is a number of units"),
        ("norm_eps", eps, eps >= 0, "0 or more", "it adds to a variance"),
        (
          "rope_theta",
          theta,
          theta is None or theta > 0,
          "above 0",
          "it is raised to powers",
        ),
      ),
    )
  ranges(
    "model",
    (
      (
        "lora_dropout",
        c.lora_dropout,
        0 <= c.lora_dropout < 1,
        "in [0, 1)",
        "it is the share of an adapter's input that gradients leave out",
      ),
    ),
  )
  if c.lora_rank and not (c.lora_targets and c.lora_alpha > 0):
    raise errors.UserError(
      f"model.lora_rank={c.lora_rank} with lora_alpha={c.lora_alpha} and"
      f" lora_targets={tuple(c.lora_targets)}",
      "the adapter is scaled by alpha / rank and sits on these projections;"
      " nothing would train",
      "set lora_alpha above 0 and name at least one target, e.g. ('q', 'v')",
    )


def ranges(
  section: str, rules: Iterable[tuple[str, Any, bool, str, str]]
) -> None:
  """Refuses the first field that is out of its range.

  Args:
    section: of the config.
    rules: (field, its value, whether it is good, what is wanted, why).

  Raises:
    UserError: names the field.
  """
  for name, value, good, want, why in rules:
    if not good:
      raise errors.UserError(
        f"{section}.{name}={value}", why, f"choose {section}.{name} {want}"
      )


def vocabulary(config, task: Task) -> None:
  """Ids of the tokenizer and stop ids must have rows in the embedding."""
  decoder(config.model)
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
    REFERENCE[:2],
    "it says when the reference model runs: if the loss needs it, or always",
  )
  if config.ahead > 1:
    raise errors.UserError(
      f"ahead={config.ahead}",
      "the policy that samples is kept for one step, so older ones are gone",
      "set ahead=1, or 0 for rollouts of the policy that is trained",
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
