"""Pairs, and their folder of weights, that every offline contender reads.

Weights are Hugging Face directories: `policy` and `reference`, two decoders
drawn apart so that a DPO loss is not log 2 at the start, and `reward`, one with
a score in place of the language head. `bench_offline.py SIZE export FOLDER`
writes them.
"""

from __future__ import annotations

import numpy as np

from benchmarks import workload

BETA = 0.1  # of DPO
RATE = 1e-5  # of Adam
LOSSES = 3  # first losses, which contenders must agree on
THETA = 1e6  # of RoPE; Tunix's Llama3 reads no other
END = 2  # id that ends every answer


def pairs(size: workload.Size) -> dict[str, np.ndarray]:
  """Random pairs of full length.

  Returns:
    prompt i32[B, P], chosen and rejected i32[B, T]; ids from 4 on, but END at
    the end of an answer.
  """
  rng = np.random.default_rng(5)
  draw = lambda n: rng.integers(4, size.vocab, (size.pairs, n), np.int32)
  out = {
    "prompt": draw(size.prompt),
    "chosen": draw(size.new),
    "rejected": draw(size.new),
  }
  for name in ("chosen", "rejected"):
    out[name][:, -1] = END
  return out
