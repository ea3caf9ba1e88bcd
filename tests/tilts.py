"""The optimum at a KL by halvings in numpy, apart from the package."""

import math

import numpy as np


def spent(logp, s, nats):
  """(law f64[X, Y], its mean KL, beta) of exp(s / beta) at a budget.

  Args:
    logp: f64[X, Y], of the base.
    s: f64[X, Y], what is optimised.
    nats: mean over X.
  """

  def at(u):
    x = logp + np.exp(u) * (s - s.max(-1, keepdims=True))
    x -= x.max(-1, keepdims=True)
    log_q = x - np.log(np.exp(x).sum(-1, keepdims=True))
    return np.exp(log_q), (np.exp(log_q) * (log_q - logp)).sum(-1).mean()

  low, high = -8.0, 8.0
  for _ in range(40):
    middle = (low + high) / 2
    low, high = (middle, high) if at(middle)[1] < nats else (low, middle)
  return *at(low), math.exp(-low)
