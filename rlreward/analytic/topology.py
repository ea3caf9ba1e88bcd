"""Reward uncertainty as distance in the graph that comparisons make.

Nodes are answers (or clusters of them), an edge is a comparison or a likeness,
with the variance of the difference of rewards that it tells. How well two
rewards are known against each other is the inference distance. The paper bounds
it by the shortest path; the variance of the exact Gaussian posterior is the
effective resistance, which counts all paths at once and is never larger. On a
tree, which has one path, the two are the same; on a random graph the path grows
like log M / log log M and the resistance does not grow at all, so the paper's
gain of trees over independent pairs is one of the bound.

Reference: Reward Generalization in RLHF: A Topological Perspective, 2402.10184.
"""

from __future__ import annotations

from typing import Literal

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import Tracer

from rlreward.types import Array

Form = Literal["path", "resistance"]
Decay = Literal["power", "log", "sublog"]


# ------------------------------------------------------------ distances
def inference_distance(
  edges_Ex2: Array, variances_E: Array, size: int, form: Form = "resistance"
) -> Array:
  """Variance with which the difference of two rewards is known.

    path        min over paths of the sum of variances: one chain of inference
    resistance  (e_i - e_j)' L^+ (e_i - e_j) with the Laplacian L of
                conductances 1 / variance: the posterior under a flat prior

  Args:
    edges_Ex2: i32, nodes that are compared; more than once is allowed, a node
      with itself says nothing.
    variances_E: positive; inf is an edge that is not there.
    size: Y, nodes.
    form: see above.

  Returns:
    f[Y, Y], symmetric, 0 on the diagonal, inf between nodes that no path joins.
    Resistances lose digits where a weak edge is all that joins strong parts
    (4e-4 of them in f32 at a ratio of 1e2): use `jax.enable_x64` there.

  Raises:
    ValueError: an unknown form, or concrete variances that are not positive.
  """
  if form not in ("path", "resistance"):
    raise ValueError(f"unknown form {form!r}; choose path or resistance")
  chex.assert_shape(edges_Ex2, (None, 2))
  if not isinstance(variances_E, Tracer):
    if not np.all(np.asarray(variances_E) > 0):
      raise ValueError(f"variances must be positive: {variances_E}")
  path = _paths(edges_Ex2, variances_E, size)
  if form == "path":
    return path
  joined = jnp.isfinite(path)
  # With unit diagonal few digits are lost to edges of unlike variance. What is
  # added makes it invertible and drops out of differences: per component, the
  # projector on the vector that the scaled Laplacian maps to 0.
  lap = laplacian(edges_Ex2, variances_E, size)
  total = jnp.diagonal(lap)
  root = jnp.sqrt(jnp.where(total > 0, total, 1))
  null = jnp.where(joined, root[:, None] * root[None], 0)
  null /= jnp.sum(jnp.where(joined, root**2, 0), 1, keepdims=True)
  scaled = lap / root[:, None] / root[None] + null
  full = jax.scipy.linalg.cho_factor(scaled)
  inverse = jax.scipy.linalg.cho_solve(full, jnp.diag(1 / root))
  inverse /= root[:, None]
  return jnp.where(joined, difference_variance(inverse), jnp.inf)


def _paths(edges, variances, size: int) -> Array:
  """Floyd and Warshall: [Y, Y]."""
  variances = jnp.asarray(variances, float)
  start = jnp.where(jnp.eye(size, dtype=bool), 0.0, jnp.inf)
  i, j = jnp.asarray(edges).T
  start = start.at[i, j].min(variances).at[j, i].min(variances)
  through = lambda k, d: jnp.minimum(d, d[:, k, None] + d[None, k])
  return lax.fori_loop(0, size, through, start)


def laplacian(edges_Ex2: Array, variances_E: Array, size: int) -> Array:
  """L = sum over edges of (e_i - e_j)(e_i - e_j)' / variance.

  Args:
    edges_Ex2: i32.
    variances_E: positive, or inf.
    size: Y.

  Returns:
    f[Y, Y], the precision of rewards that comparisons alone give.
  """
  i, j = jnp.asarray(edges_Ex2).T
  weight = jnp.where(i == j, 0, 1 / jnp.asarray(variances_E, float))
  out = jnp.zeros((size, size), weight.dtype)
  out = out.at[i, j].add(-weight).at[j, i].add(-weight)
  return out.at[i, i].add(weight).at[j, j].add(weight)


def gaussian_posterior(
  prior_YxY: Array, edges_Ex2: Array, variances_E: Array
) -> Array:
  """Covariance of rewards after comparisons d = r_i - r_j + noise.

    K - K A' (A K A' + N)^-1 A K,  A the rows e_i - e_j, N = diag(variance)

  With K = s I and s to infinity, the variance of a difference goes to the
  effective resistance.

  Args:
    prior_YxY: K, covariance before.
    edges_Ex2: i32.
    variances_E: of the noise, positive.

  Returns:
    f[Y, Y].
  """
  i, j = jnp.asarray(edges_Ex2).T
  prior = jnp.asarray(prior_YxY, float)
  across = prior[i] - prior[j]  # A K
  inner = across[:, i] - across[:, j] + jnp.diag(jnp.asarray(variances_E))
  lower = jnp.linalg.cholesky(inner)
  root = jax.scipy.linalg.solve_triangular(lower, across, lower=True)
  return prior - root.T @ root


def difference_variance(covariance_YxY: Array) -> Array:
  """Var(r_i - r_j) = C_ii + C_jj - 2 C_ij of all pairs: [Y, Y] to [Y, Y]."""
  own = jnp.diagonal(covariance_YxY)
  # Exactly 0 with itself, and never below by rounding.
  out = jnp.maximum(own[:, None] + own[None] - 2 * covariance_YxY, 0)
  return jnp.where(jnp.eye(out.shape[0], dtype=bool), 0, out)


def prefix_covariance(leaves_YxD: Array, weights_D: Array) -> Array:
  """sum_l w_l [first l segments the same]: rewards that beginnings make.

  Under this prior and with noise that does not depend on the pair, independent
  pairs tell more about two random answers than as many pairs of one tree do:
  the tree covers little of what there is to say. The paper's advantage needs
  noise that grows with what differs, or questions about near answers.

  Args:
    leaves_YxD: i32, segments.
    weights_D: variance of what the l-th segment adds, l = 1 .. D.

  Returns:
    f[Y, Y].
  """
  same = leaves_YxD[:, None] == leaves_YxD[None]
  shared = jnp.cumprod(same.astype(jnp.int32), -1)
  return jnp.sum(jnp.asarray(weights_D, float) * shared, -1)


# ------------------------------------------------------------ topologies
def random_comparisons(key: Array, clusters: int, count: int) -> Array:
  """The chain: each comparison is of two different clusters at random.

  Args:
    key: typed PRNG key.
    clusters: M, at least 2.
    count: E, comparisons; M log M or more join all of them.

  Returns:
    i32[E, 2].
  """
  first, second = jax.random.split(key)
  a = jax.random.randint(first, (count,), 0, clusters)
  b = jax.random.randint(second, (count,), 0, clusters - 1)
  return jnp.stack([a, b + (b >= a)], 1).astype(jnp.int32)


def tree_edges(
  branch: int, depth: int, variance: float = 1.0, ratio: float = 0.5
) -> tuple[Array, Array]:
  """The full tree: an edge from each node to its parent.

  An edge into level l has variance * ratio^(l - 1): the longer two answers are
  the same, the less their rewards can differ. Two leaves are at most
  2 variance (1 - ratio^D) / (1 - ratio) apart, whatever the number of leaves.

  Args:
    branch: B.
    depth: D.
    variance: of an edge at the root, positive.
    ratio: from one level to the next, positive.

  Returns:
    (i32[E, 2] of (parent, child) in breadth-first order, root 0; f[E]).
  """
  count = sum(branch**level for level in range(depth + 1))
  child = np.arange(1, count)
  level = np.repeat(np.arange(depth), branch ** np.arange(1, depth + 1))
  edges = np.stack([(child - 1) // branch, child], 1)
  return jnp.asarray(edges, jnp.int32), jnp.asarray(variance * ratio**level)


def random_path(clusters: float | Array, degree: float | Array) -> Array:
  """log M / log k: hops between two nodes of a random graph of M, as M grows.

  With k = log M comparisons of each cluster, the fewest that join all, it is
  the paper's log M / log log M.

  Args:
    clusters: M, above 1.
    degree: k, comparisons that a cluster takes part in, above 1.

  Returns:
    f[...], hops.
  """
  return jnp.log(clusters) / jnp.log(degree)


def shared_prefix_tail(branch: int, depth: int, shared) -> Array:
  """P(two different leaves share at least l segments).

    (B^(D - l) - 1) / (B^D - 1)

  Args:
    branch: B, at least 2.
    depth: D.
    shared: l from 0 to D, any shape.

  Returns:
    f[...].
  """
  left = depth - jnp.asarray(shared)
  return (float(branch) ** left - 1) / (float(branch) ** depth - 1)


def expected_shared_fraction(branch: int, depth: int) -> Array:
  """Mean share of an answer that its partner in a pair has too.

  (1 / D) sum_{l = 1 .. D} (B^(D - l) - 1) / (B^D - 1); 4/21 for B = 2, D = 3,
  near the 21 % of text that the paper's annotators had to read less.

  Args:
    branch: B, at least 2.
    depth: D.

  Returns:
    f[].
  """
  tails = shared_prefix_tail(branch, depth, jnp.arange(1, depth + 1))
  return jnp.mean(tails)


# ------------------------------------------------------------ diversity
def structure_function(
  distance_YxY: Array, cluster_Y: Array, clusters: int
) -> Array:
  """Mean distance of two answers of one cluster, averaged over clusters.

  The paper's F(M) is the smallest that a cut into M clusters of like size
  reaches; this is the value of a cut, at least F(M).

  Args:
    distance_YxY: inference distances that likeness alone gives.
    cluster_Y: i32 in [0, M).
    clusters: M.

  Returns:
    f[]; both answers are drawn with replacement, empty clusters do not count.
  """
  member = jax.nn.one_hot(cluster_Y, clusters, dtype=distance_YxY.dtype)
  size = jnp.sum(member, 0)
  inside = cluster_Y[:, None] == cluster_Y[None]
  row = jnp.sum(jnp.where(inside, distance_YxY, 0), 1)
  mean = (row @ member) / jnp.maximum(size, 1) ** 2
  return jnp.sum(mean) / jnp.maximum(jnp.sum(size > 0), 1)


def decay(clusters: float | Array, kind: Decay, rate: float = 1.0) -> Array:
  """F(M) of the paper's three kinds of tasks, up to a constant.

    power   M^-a: likeness explains rewards soon
    log     (log M)^-a
    sublog  (log log M)^-a, slower than any power of log M: a diverse task

  Args:
    clusters: M; above 1 for log, above e for sublog.
    kind: see above.
    rate: a, positive.

  Returns:
    f[...].

  Raises:
    ValueError: an unknown kind.
  """
  m = jnp.asarray(clusters, float)
  if kind == "power":
    return m**-rate
  if kind == "log":
    return jnp.log(m) ** -rate
  if kind == "sublog":
    return jnp.log(jnp.log(m)) ** -rate
  raise ValueError(f"unknown decay {kind!r}; choose power, log or sublog")
