"""Distances in comparison graphs against posteriors in float64 and by hand."""

import fractions
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.sparse import csgraph

from rlreward.analytic import topology

# f32 factorisations of well-scaled matrices of up to 40 nodes.
TIGHT = 2e-5


def graph(seed, size=8, count=14):
  """A random multigraph with variances from 0.2 to 5."""
  rng = np.random.default_rng(seed)
  edges = rng.integers(0, size, (count, 2))
  return edges, np.exp(rng.uniform(np.log(0.2), np.log(5), count))


def posterior(edges, variances, size, prior):
  """Var of differences in f64: the precision of a Gaussian, inverted."""
  precision = np.eye(size) / prior
  for (i, j), v in zip(edges, variances, strict=True):
    a = np.zeros(size)
    a[i] += 1
    a[j] -= 1
    precision += np.outer(a, a) / v
  c = np.linalg.inv(precision)
  return np.diag(c)[:, None] + np.diag(c)[None] - 2 * c


def both(edges, variances, size):
  forms = ("path", "resistance")
  return [
    np.asarray(topology.inference_distance(edges, variances, size, f))
    for f in forms
  ]


# ------------------------------------------------------------ distances
def test_series_and_parallel_by_hand():
  # 0 -1- 1 -2- 2, twice 2 -4- 3, and 4 alone.
  edges = jnp.asarray([[0, 1], [1, 2], [2, 3], [3, 2]])
  path, resistance = both(edges, jnp.asarray([1.0, 2.0, 4.0, 4.0]), 5)
  assert path[0].tolist() == [0, 1, 3, 7, np.inf]
  np.testing.assert_allclose(resistance[0], [0, 1, 3, 5, np.inf], atol=TIGHT)


@pytest.mark.parametrize("seed", range(6))
def test_resistance_is_the_posterior_variance_of_a_difference(seed):
  edges, variances = graph(seed)
  path, resistance = both(edges, variances, 8)
  joined = np.isfinite(path)
  # A prior of 1e8 leaves 1e-7 of a difference of order 1, f64 the rest.
  want = posterior(edges, variances, 8, 1e8)
  np.testing.assert_allclose(resistance[joined], want[joined], atol=5e-5)
  assert (want[~joined] > 1e7).all() and np.isinf(resistance[~joined]).all()


@pytest.mark.parametrize("seed", range(3))
def test_resistance_is_the_pseudo_inverse_of_the_laplacian(seed):
  edges, variances = graph(seed, count=30)
  inverse = np.linalg.pinv(
    np.asarray(topology.laplacian(edges, variances, 8), np.float64)
  )
  own = np.diag(inverse)
  want = own[:, None] + own[None] - 2 * inverse
  found = topology.inference_distance(edges, variances, 8)
  np.testing.assert_allclose(found, want, atol=TIGHT)


@pytest.mark.parametrize("seed", range(4))
def test_path_is_dijkstra_and_bounds_the_resistance(seed):
  edges, variances = graph(seed, size=12, count=20)
  weight = np.full((12, 12), np.inf)
  for (i, j), v in zip(edges, variances, strict=True):
    weight[i, j] = weight[j, i] = min(weight[i, j], v)
  want = csgraph.dijkstra(csgraph.csgraph_from_dense(weight, np.inf))
  path, resistance = both(edges, variances, 12)
  np.testing.assert_allclose(path, want, rtol=1e-6)
  some = np.isfinite(path)
  assert (resistance[some] <= path[some] * (1 + 1e-5) + 1e-6).all()
  assert (resistance == resistance.T).all() or np.allclose(
    resistance[some], resistance.T[some], atol=TIGHT
  )


def test_more_comparisons_never_know_less():
  edges, variances = graph(0, count=40)
  for form in ("path", "resistance"):
    few = topology.inference_distance(edges[:20], variances[:20], 8, form)
    many = topology.inference_distance(edges, variances, 8, form)
    assert (np.asarray(many) <= np.asarray(few) + TIGHT).all()


def test_an_edge_of_infinite_variance_is_not_there():
  edges, variances = graph(1)
  more = np.concatenate([edges, [[0, 7]]]), np.append(variances, np.inf)
  for found, want in zip(
    both(*more, 8), both(edges, variances, 8), strict=True
  ):
    np.testing.assert_allclose(found, want, atol=TIGHT)


@pytest.mark.parametrize("scale", [1e-6, 1e6])
def test_resistance_scales_with_the_variances(scale):
  edges, variances = graph(2, count=30)
  found = topology.inference_distance(edges, variances * scale, 8)
  want = topology.inference_distance(edges, variances, 8)
  np.testing.assert_allclose(found / scale, want, atol=TIGHT)


def test_both_forms_compile():
  edges, variances = graph(3)
  for form in ("path", "resistance"):
    run = lambda e, v, form=form: topology.inference_distance(e, v, 8, form)
    np.testing.assert_allclose(
      jax.jit(run)(edges, variances), run(edges, variances), atol=TIGHT
    )


def test_bad_input_is_refused():
  with pytest.raises(ValueError, match="unknown form"):
    topology.inference_distance(jnp.zeros((1, 2), int), jnp.ones(1), 2, "hops")  # type: ignore[arg-type]
  with pytest.raises(ValueError, match="positive"):
    topology.inference_distance(jnp.zeros((1, 2), int), jnp.zeros(1), 2)
  with pytest.raises(ValueError, match="unknown decay"):
    topology.decay(8, "linear")  # type: ignore[arg-type]


@pytest.mark.parametrize("seed", range(3))
def test_gaussian_posterior_against_precisions(seed):
  edges, variances = graph(seed)
  found = topology.gaussian_posterior(3 * jnp.eye(8), edges, variances)
  np.testing.assert_allclose(
    topology.difference_variance(found),
    posterior(edges, variances, 8, 3.0),
    atol=TIGHT,
  )


def test_a_wide_prior_leaves_the_resistance():
  edges, variances = graph(0, count=30)
  with jax.enable_x64(True):
    wide = topology.gaussian_posterior(1e7 * jnp.eye(8), edges, variances)
    found = topology.difference_variance(wide)
    want = topology.inference_distance(edges, variances, 8)
  # Digits lost to the prior: 1e7 * 1e-16; what it still says: 1e-7.
  np.testing.assert_allclose(found, want, atol=1e-6)


# ------------------------------------------------------------ topologies
@pytest.mark.parametrize("times", [1, 2])
def test_paths_of_the_chain_grow_and_its_resistance_does_not(times):
  """The log factor of the paper belongs to the bound.

  M log M / 2 comparisons, the fewest that join all, and twice as many. Mean
  over pairs and two graphs; measured for times = 1 at M = 64, 256 and 1024:
  paths 3.02, 3.42, 3.80 (1.04 to 1.06 of log M / log log M), resistances 0.87,
  0.58, 0.42.
  """
  sizes, path, resistance = (64, 256, 512), [], []
  for m in sizes:
    count = int(np.ceil(times * m * np.log(m) / 2))
    rows = []
    for seed in range(2):
      edges = topology.random_comparisons(jax.random.key(seed), m, count)
      a, b = both(edges, jnp.ones(count), m)
      some = np.isfinite(a) & ~np.eye(m, dtype=bool)
      assert some.mean() > 0.9
      rows.append((a[some].mean(), b[some].mean()))
    path.append(np.mean(rows, 0)[0])
    resistance.append(np.mean(rows, 0)[1])
  assert path[1] > path[0] + 0.2 and path[2] > path[1] + 0.1
  law = topology.random_path(np.asarray(sizes), times * np.log(sizes))
  ratio = np.asarray(path) / np.asarray(law)
  assert (ratio > 0.95).all() and (ratio < 1.2).all()
  assert ratio.max() / ratio.min() < 1.08  # while the path grows by a fifth
  assert resistance[0] > resistance[1] > resistance[2]


@pytest.mark.parametrize("ratio", [0.3, 0.7])
def test_the_tree_is_bounded_by_the_geometric_sum(ratio):
  far = []
  for depth in (1, 3, 5):
    edges, variances = topology.tree_edges(2, depth, 2.0, ratio)
    size = len(edges) + 1
    with jax.enable_x64(True):  # conductances of 0.5 and of up to 60
      path, resistance = both(edges, np.asarray(variances, np.float64), size)
    # One path between two nodes: nothing for the resistance to gain.
    np.testing.assert_allclose(resistance, path, atol=1e-9)
    leaves = slice(size - 2**depth, size)
    far.append(path[leaves, leaves].max())
    want = 2 * 2.0 * (1 - ratio**depth) / (1 - ratio)
    np.testing.assert_allclose(far[-1], want, rtol=1e-6)
  assert far[0] < far[1] < far[2] < 4 / (1 - ratio)


def test_random_comparisons_are_of_two_clusters_and_uniform():
  edges = np.asarray(topology.random_comparisons(jax.random.key(0), 4, 12_000))
  assert (edges[:, 0] != edges[:, 1]).all()
  count = np.bincount(edges[:, 0] * 4 + edges[:, 1], minlength=16)
  want = np.where(np.eye(4, dtype=bool).ravel(), 0, 1000)
  assert np.abs(count - want).max() < 5 * 1000**0.5  # five standard errors


@pytest.mark.parametrize(("branch", "depth"), [(2, 3), (2, 4), (3, 2), (4, 3)])
def test_shared_prefix_law_by_enumeration(branch, depth):
  leaves = list(itertools.product(range(branch), repeat=depth))
  shared = [
    next(i for i in range(depth) if a[i] != b[i])
    for a, b in itertools.combinations(leaves, 2)
  ]
  for length in range(depth + 1):
    np.testing.assert_allclose(
      topology.shared_prefix_tail(branch, depth, length),
      np.mean(np.asarray(shared) >= length),
      rtol=1e-6,
    )
  np.testing.assert_allclose(
    topology.expected_shared_fraction(branch, depth),
    np.mean(shared) / depth,
    rtol=1e-6,
  )


def test_the_papers_tree_saves_four_in_twenty_one():
  tails = [fractions.Fraction(2 ** (3 - k) - 1, 2**3 - 1) for k in (1, 2, 3)]
  assert sum(tails) / 3 == fractions.Fraction(4, 21)
  found = topology.expected_shared_fraction(2, 3)
  np.testing.assert_allclose(found, 4 / 21, rtol=1e-6)


@pytest.mark.parametrize(("count", "margin"), [(32, 0.1), (128, 0.3)])
def test_with_even_noise_a_tree_tells_less_about_random_pairs(count, margin):
  """The negative result: what a Gaussian process makes of either topology.

  All 256 answers of 4 segments of 4 types; noise as large as the prior. Share
  of the prior variance that is left, mean over three draws: chain 0.66 and
  0.42 with 32 and 128 pairs, one binary tree 0.89 and 0.87.
  """
  leaves = np.asarray(list(itertools.product(range(4), repeat=4)))
  prior = topology.prefix_covariance(jnp.asarray(leaves), jnp.full(4, 0.25))
  tree = np.flatnonzero((leaves < 2).all(1))
  assert len(tree) == 16
  left = {"chain": [], "tree": []}
  for seed in range(3):
    rng = np.random.default_rng(seed)
    for name, pool in (("chain", np.arange(256)), ("tree", tree)):
      pair = np.stack([rng.choice(pool, 2, False) for _ in range(count)])
      after = topology.gaussian_posterior(prior, pair, jnp.ones(count))
      of = lambda c: np.asarray(topology.difference_variance(c)).mean()
      left[name].append(of(after) / of(prior))
  assert np.mean(left["tree"]) > np.mean(left["chain"]) + margin


def test_prefix_covariance_by_hand():
  leaves = jnp.asarray([[1, 1, 1], [1, 1, 2], [1, 2, 1], [2, 1, 1]])
  found = topology.prefix_covariance(leaves, jnp.asarray([1.0, 2.0, 4.0]))
  assert found[0].tolist() == [7, 3, 1, 0]  # a later likeness does not count


# ------------------------------------------------------------ diversity
def test_structure_function_against_loops():
  rng = np.random.default_rng(0)
  distance = rng.random((9, 9))
  cluster = np.asarray([0, 0, 0, 2, 2, 1, 1, 1, 1])
  each = [
    np.mean([distance[i, j] for i in x for j in x])
    for x in (np.flatnonzero(cluster == k) for k in range(3))
  ]
  found = topology.structure_function(jnp.asarray(distance), cluster, 4)
  np.testing.assert_allclose(found, np.mean(each), rtol=1e-6)


def test_finer_clusters_of_a_line_are_smaller():
  x = np.arange(64)
  distance = np.abs(x[:, None] - x[None]).astype(np.float32)
  found = [
    float(topology.structure_function(distance, x * m // 64, m))
    for m in (1, 4, 16, 64)
  ]
  # (L^2 - 1) / (3 L) on a line of L nodes: the power law with a = 1.
  np.testing.assert_allclose(found, [(k * k - 1) / (3 * k) for k in
                                     (64, 16, 4, 1)], rtol=1e-5)  # fmt: skip


def test_kinds_of_decay_are_ordered():
  m = jnp.asarray([1e2, 1e4, 1e8])
  ratio = lambda a, b: np.asarray(topology.decay(m, a) / topology.decay(m, b))
  assert (np.diff(ratio("power", "log")) < 0).all()
  assert (np.diff(ratio("log", "sublog")) < 0).all()
  np.testing.assert_allclose(topology.decay(16.0, "power", 0.5), 0.25)
