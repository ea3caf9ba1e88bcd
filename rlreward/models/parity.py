"""Our logits against those of `transformers` on the same directory.

Rows are random ids of different lengths, left-padded, and longer than the
sliding window where that is affordable. Both sides compute in float32 on the
weights as stored. Our side runs twice: in one pass, and token by token with a
cache.
"""

from __future__ import annotations

import pathlib
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rlreward.errors import UserError
from rlreward.models import pretrained, transformer

# Above this length the check of a big model takes minutes on a CPU.
_LONGEST = 192


class Parity(NamedTuple):
  """What a comparison found.

  Attributes:
    path: the directory.
    output: "logits" or "scores".
    length: L, slots of the longest row.
    window: sliding window of the model, or None.
    largest: largest absolute value that `transformers` gives.
    full: largest absolute difference, one pass.
    cached: largest absolute difference, token by token with a cache.
    tolerance: what the differences may be.
  """

  path: str
  output: str
  length: int
  window: int | None
  largest: float
  full: float
  cached: float
  tolerance: float

  @property
  def ok(self) -> bool:
    """Whether both differences are within the tolerance."""
    return max(self.full, self.cached) <= self.tolerance

  def text(self) -> str:
    """The numbers, a line each."""
    window = "none"
    if self.window is not None:
      passed = self.length > self.window
      window = f"{self.window} ({'exceeded' if passed else 'NOT exceeded'})"
    return "\n".join(
      (
        f"{self.path}: {self.output} against transformers, float32",
        f"  rows of up to {self.length} tokens, left-padded; window {window}",
        f"  largest {self.output:12} {self.largest:.3f}",
        f"  difference, full pass {self.full:.2e}",
        f"  difference, cached    {self.cached:.2e}",
        f"  {'ok' if self.ok else 'FAILED'} (tolerance {self.tolerance:.0e})",
      )
    )


def main(path: str) -> int:
  """Prints the comparison for one directory; what `check-parity` runs.

  Args:
    path: a directory in the Hugging Face layout, or a hub name.

  Returns:
    Exit code: 0 within the tolerance, 1 beyond it.
  """
  found = check(path)
  print(found.text())
  return 0 if found.ok else 1


def check(
  path: pretrained.Path,
  length: int | None = None,
  rows: int = 3,
  seed: int = 0,
  tolerance: float = 1e-4,
) -> Parity:
  """Compares one directory with `transformers` on random rows.

  Args:
    path: a directory in the Hugging Face layout, or a hub name.
    length: L; None takes the window plus 8, at least 24, at most 192.
    rows: N, of lengths between L / 2 and L.
    seed: of the ids.
    tolerance: largest absolute difference that is fine.

  Returns:
    The largest differences over real tokens (scores: over rows).

  Raises:
    UserError: torch is not installed, or the directory does not load.
  """
  require_torch()
  folder = pretrained.resolve(path)
  stated = pretrained.read_config(folder)
  head = "score" if stated.outputs else "lm"
  config, variables = pretrained.load(folder, param_dtype="float32", head=head)
  if length is None:
    length = min(max(24, (config.window or 0) + 8), _LONGEST)
  if config.learned_positions:
    length = min(length, config.learned_positions)
  tokens, attend = sample(config.vocab, rows, length, seed)
  theirs = reference(folder, tokens, attend, head)
  full, cached = ours(config, variables, tokens, attend)
  if head == "score":
    full, cached = full[:, -1], cached[:, -1]
    largest, gap = np.abs(theirs).max(), lambda x: np.abs(x - theirs).max()
  else:
    largest = np.abs(theirs[attend]).max()
    gap = lambda x: np.abs(x - theirs)[attend].max()
  return Parity(
    path=str(path),
    output="scores" if head == "score" else "logits",
    length=length,
    window=config.window,
    largest=float(largest),
    full=float(gap(full)),
    cached=float(gap(cached)),
    tolerance=tolerance,
  )


def require_torch() -> None:
  """Refuses to go on without torch.

  Raises:
    UserError: torch is not installed.
  """
  try:
    import torch  # noqa: F401
  except ImportError:
    raise UserError(
      "torch is not installed",
      "the comparison runs the model in transformers, which needs it",
      "pip install torch (the CPU build is enough)",
    ) from None


def sample(
  vocab: int, rows: int, length: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
  """Random left-padded rows of different lengths.

  Args:
    vocab: ids are below it; 0 is the pad id and appears nowhere else.
    rows: N; row n has length * (1 - n / (2 N)) tokens.
    length: L.
    seed: of the ids.

  Returns:
    (tokens i32[N, L], attend bool[N, L]).
  """
  rng = np.random.default_rng(seed)
  tokens = rng.integers(1, vocab, (rows, length), dtype=np.int32)
  real = length - (np.arange(rows) * length) // (2 * rows)
  attend = np.arange(length)[None] >= length - real[:, None]
  return np.where(attend, tokens, 0).astype(np.int32), attend


def reference(
  path: pathlib.Path,
  tokens: np.ndarray,
  attend: np.ndarray,
  head: str = "lm",
  dtype: str = "float32",
) -> np.ndarray:
  """Logits or scores of `transformers`, on the CPU.

  Args:
    path: a directory in the Hugging Face layout.
    tokens: i32[N, L].
    attend: bool[N, L].
    head: "lm" or "score".
    dtype: "float32" or "bfloat16".

  Returns:
    f32[N, L, V], or f32[N, K] read at the last slot.
  """
  import torch
  import transformers

  kinds = {
    "lm": transformers.AutoModelForCausalLM,
    "score": transformers.AutoModelForSequenceClassification,
  }
  model = kinds[head].from_pretrained(
    str(path),
    dtype=getattr(torch, dtype),
    attn_implementation="eager",
    local_files_only=True,
  )
  model = model.eval()
  position = np.maximum(np.cumsum(attend, -1) - 1, 0)
  model.config.pad_token_id = 0  # `score` is read at the last other token
  with torch.no_grad():
    out = model(
      input_ids=torch.as_tensor(tokens.astype(np.int64)),
      attention_mask=torch.as_tensor(attend.astype(np.int64)),
      position_ids=torch.as_tensor(position),
      use_cache=False,
    )
  return out.logits.float().numpy()


def ours(config, variables, tokens, attend) -> tuple[np.ndarray, np.ndarray]:
  """Our outputs at every slot, in one pass and token by token.

  The first half is the prompt of the second run; its slots hold the outputs
  of the prefill.

  Args:
    config: TransformerConfig; `outputs` > 0 gives scores.
    variables: {"params": tree}.
    tokens: i32[N, L].
    attend: bool[N, L].

  Returns:
    Two f32[N, L, V], or f32[N, L, K] with scores.
  """
  model = transformer.build(config)
  tokens, attend = jnp.asarray(tokens), jnp.asarray(attend)
  n, length = tokens.shape
  half = length // 2

  def read(variables, x):
    if config.outputs:
      return model.score(variables, x)
    return transformer.logits_of(config, x, model.head(variables))

  # Variables are arguments: as constants they would be compiled in.
  read = jax.jit(read)
  full = read(variables, jax.jit(model.hidden)(variables, tokens, attend))
  prompt = (tokens[:, :half], attend[:, :half])
  x, prefix = jax.jit(model.prefill)(variables, *prompt)
  flat = model.unstack(variables)
  cache = transformer.empty_cache(model, n, length - half, config.dtype)
  step = jax.jit(model.decode)
  seen = [x]
  for i in range(half, length):
    at = slice(i, i + 1)
    x, cache = step(flat, tokens[:, at], attend[:, at], prefix, cache, i - half)
    seen.append(x)
  return np.asarray(full), np.asarray(read(variables, jnp.concatenate(seen, 1)))
