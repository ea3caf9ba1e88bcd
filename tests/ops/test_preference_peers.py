"""Preference losses against TRL's own methods: values and gradients.

The trainers' loss methods run unbound, on a stand-in for the trainer that
holds the numbers they read; models are replaced by given token log-probs. TRL
1.16 has no BCO, XPO and Nash-MD; 0.24 has, and agrees.
"""

import collections
import importlib
import math
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlreward.ops import preference, unpaired

torch = pytest.importorskip("torch")
pytest.importorskip("trl")

P, T = 4, 5
BETA = 0.3
LENGTHS = np.array([5, 3, 1, 4, 2, 5, 4, 3])  # of chosen, then of rejected
MASK = np.arange(T) < LENGTHS[:, None]
VALUE = {"rtol": 1e-5, "atol": 1e-6}  # float32 on both sides
GRAD = {"rtol": 1e-4, "atol": 1e-6}


def _tokens(seed=0):
  """Policy and reference log-probs [2 P, T], 0 where there is no token."""
  rng = np.random.default_rng(seed)
  logp = np.where(MASK, -rng.exponential(size=MASK.shape), 0)
  reference = np.where(MASK, logp + rng.normal(size=MASK.shape), 0)
  return logp.astype(np.float32), reference.astype(np.float32)


class _Metrics(collections.defaultdict):
  def __missing__(self, key):
    self[key] = []
    return self[key]


def _accelerator():
  same = lambda x: x
  return types.SimpleNamespace(
    device="cpu", gather=same, gather_for_metrics=same, num_processes=1
  )


def _masked(logp):
  """What the trainers do to padding before any loss: 0, without gradient."""
  return torch.where(torch.tensor(MASK), logp, 0.0)


def _outputs(logp):
  logp, zero = _masked(logp), torch.zeros_like(logp)
  return types.SimpleNamespace(
    log_probs=logp, entropy=zero, mean_logits=zero, is_top1=zero.bool(),
    log_sum_sq_probs=zero - 1.0,
  )  # fmt: skip


def _method(modules, cls, name):
  """A trainer's method from the first module that has it, or a skip."""
  for module in modules:
    try:
      return getattr(getattr(importlib.import_module(module), cls), name)
    except (ImportError, AttributeError):
      continue
  pytest.skip(f"this trl has no {cls}.{name}")


def _run(call, *leaves):
  """Value and gradients of a torch scalar in the leaves."""
  try:
    loss = call(*leaves)
  except AttributeError as error:  # another version reads other fields
    pytest.skip(f"this trl reads more of its trainer: {error}")
  loss.backward()
  return float(loss.detach()), [x.grad.numpy() for x in leaves]


def _leaf(x):
  return torch.tensor(np.asarray(x), requires_grad=True)


def _compare(ours, theirs, *arrays):
  """ours and theirs: scalars of the arrays, for jax and torch."""
  argnums = tuple(range(len(arrays)))
  got = jax.value_and_grad(ours, argnums)(*map(jnp.asarray, arrays))
  want = _run(theirs, *map(_leaf, arrays))
  np.testing.assert_allclose(got[0], want[0], **VALUE)
  assert any(np.abs(g).max() > 1e-3 for g in want[1])
  for a, b in zip(got[1], want[1], strict=True):
    np.testing.assert_allclose(a, b, **GRAD)


def _dpo(logp, reference, kind, smoothing=0.0, divergence="reverse_kl"):
  """TRL's DPO loss of token log-probs."""
  loss = _method(["trl.trainer.dpo_trainer"], "DPOTrainer", "_compute_loss")
  sums = torch.tensor(reference.sum(1))
  fake = types.SimpleNamespace(
    model=types.SimpleNamespace(training=True), accelerator=_accelerator(),
    aux_loss_enabled=False, ld_alpha=None, precompute_ref_logps=True,
    f_divergence_type=divergence, f_alpha_divergence_coef=0.4, beta=BETA,
    loss_types=[kind], loss_weights=[1.0], label_smoothing=smoothing,
    use_weighting=False, args=types.SimpleNamespace(discopop_tau=0.05),
    _metrics={"train": _Metrics()}, _total_train_tokens=0, _tp_size=1,
  )  # fmt: skip
  mask = np.concatenate([np.zeros((2 * P, 1)), MASK], axis=1)
  mask = torch.tensor(mask, dtype=torch.long)
  inputs = {
    "input_ids": torch.zeros_like(mask), "attention_mask": mask,
    "completion_mask": mask, "ref_chosen_logps": sums[:P],
    "ref_rejected_logps": sums[P:],
  }  # fmt: skip
  return loss(fake, lambda **_: _outputs(logp), inputs, False)


def _scores(logp, reference, normalise="sum"):
  ratio = preference.sequence_logp(
    logp - reference, jnp.asarray(MASK), normalise
  )
  return ratio[:P], ratio[P:]


@pytest.mark.parametrize("kind,smoothing", [
  ("sigmoid", 0.0), ("robust", 0.2), ("hinge", 0.0), ("ipo", 0.0),
  ("exo_pair", 1e-3), ("exo_pair", 0.2), ("nca_pair", 0.0), ("bco_pair", 0.0),
  ("sppo_hard", 0.0), ("apo_zero", 0.0), ("apo_down", 0.0), ("discopop", 0.0),
  ("aot", 0.0), ("aot", 0.1), ("aot_unpaired", 0.1), ("sigmoid_norm", 0.0),
])  # fmt: skip
def test_dpo_trainer(kind, smoothing):
  """Every loss of the DPO trainer; its ipo takes means per token."""
  logp, reference = _tokens()
  mean = kind in ("ipo", "sigmoid_norm")

  def ours(logp):
    c, r = _scores(logp, reference, "mean" if mean else "sum")
    sums = reference.sum(1)
    return preference.pairwise(
      c, r, beta=BETA, label_smoothing=smoothing,
      kind="sigmoid" if kind == "sigmoid_norm" else kind,
      reference_margin_P=jnp.asarray(sums[:P] - sums[P:]),
    ).mean()  # fmt: skip

  _compare(ours, lambda x: _dpo(x, reference, kind, smoothing), logp)


@pytest.mark.parametrize("divergence,name", [
  ("forward_kl", "forward_kl"), ("js_divergence", "js"),
  ("alpha_divergence", "alpha"),
])  # fmt: skip
def test_f_divergences(divergence, name):
  logp, reference = _tokens(1)

  def ours(logp):
    c, r = (
      preference.f_score(x, name, alpha=0.4) for x in _scores(logp, reference)
    )
    return preference.pairwise(c, r, beta=BETA).mean()

  _compare(
    ours, lambda x: _dpo(x, reference, "sigmoid", divergence=divergence), logp
  )


def test_metrics():
  """The reported rewards, on the side of the loss."""
  logp, reference = _tokens(2)
  c, r = _scores(jnp.asarray(logp), jnp.asarray(reference))
  got = {k: v.mean() for k, v in preference.describe(c, r, BETA).items()}
  reward = BETA * (logp - reference).sum(1)
  np.testing.assert_allclose(got["chosen_reward"], reward[:P].mean(), **VALUE)
  np.testing.assert_allclose(
    got["accuracy"], (reward[:P] > reward[P:]).mean(), **VALUE
  )


@pytest.mark.parametrize("kind,smoothing,alpha", [
  ("sigmoid", 0.0, 0.0), ("sigmoid", 0.2, 0.0), ("hinge", 0.0, 0.0),
  ("ipo", 0.0, 0.0), ("simpo", 0.0, 0.0), ("simpo", 0.1, 0.0),
  ("simpo", 0.0, 0.25),
])  # fmt: skip
def test_cpo_trainer(kind, smoothing, alpha):
  """CPO, cDPO's smoothing, SimPO and AlphaPO: scores without a reference."""
  loss = _method(
    ["trl.experimental.cpo.cpo_trainer", "trl.trainer.cpo_trainer"],
    "CPOTrainer", "cpo_loss",
  )  # fmt: skip
  gamma = 0.5
  fake = types.SimpleNamespace(
    alpha=alpha, accelerator=_accelerator(), loss_type=kind, beta=BETA,
    simpo_gamma=gamma, label_smoothing=smoothing,
  )  # fmt: skip
  mean = _tokens(3)[0].sum(1) / LENGTHS

  def ours(c, r):
    if alpha:
      c, r = (preference.f_score(x, "alpha", 1 - alpha) for x in (c, r))
    return preference.pairwise(
      c, r, beta=BETA, kind="sigmoid" if kind == "simpo" else kind,
      label_smoothing=smoothing, margin=gamma if kind == "simpo" else 0.0,
    ).mean()  # fmt: skip

  _compare(
    ours, lambda c, r: loss(fake, c, r)[0].mean(),
    *np.float32(mean).reshape(2, P),
  )  # fmt: skip


def test_orpo_trainer():
  """TRL returns lambda log sigmoid, to be subtracted; its beta is lambda."""
  loss = _method(
    ["trl.experimental.orpo.orpo_trainer", "trl.trainer.orpo_trainer"],
    "ORPOTrainer", "odds_ratio_loss",
  )  # fmt: skip
  fake = types.SimpleNamespace(beta=BETA, accelerator=_accelerator())
  mean = np.float32(_tokens(4)[0].sum(1) / LENGTHS)

  def ours(c, r):
    odds = preference.odds_ratio(c, r)
    zero = jnp.zeros_like(odds)
    return BETA * preference.pairwise(odds, zero, beta=1.0).mean()

  _compare(ours, lambda c, r: -loss(fake, c, r)[0].mean(), *mean.reshape(2, P))


@pytest.mark.parametrize("shift", [0.4, -2.0])
@pytest.mark.parametrize("kind", ["kto", "apo_zero_unpaired"])
def test_kto_trainer(kind, shift):
  """Values, gradients and the clamp of the reference point (shift < 0)."""
  loss = _method(
    ["trl.trainer.kto_trainer", "trl.experimental.kto.kto_trainer"],
    "KTOTrainer", "_compute_loss",
  )  # fmt: skip
  logp, reference = _tokens(5)
  far = np.float32(np.random.default_rng(6).normal(size=2 * P) + shift)
  label = np.arange(2 * P) % 3 == 0
  fake = types.SimpleNamespace(
    model=types.SimpleNamespace(training=True), accelerator=_accelerator(),
    aux_loss_enabled=False, calculate_KL=kind == "kto", loss_type=kind,
    precompute_ref_logps=True, beta=BETA, desirable_weight=1.5,
    undesirable_weight=0.7, _metrics={"train": _Metrics()},
    _total_train_tokens=0, _tp_size=1,
    _compute_kl_logps=lambda model, batch: torch.tensor(far),
  )  # fmt: skip
  mask = np.concatenate([np.zeros((2 * P, 1)), MASK], axis=1)
  mask = torch.tensor(mask, dtype=torch.long)
  inputs = {
    "input_ids": torch.zeros_like(mask), "attention_mask": mask,
    "completion_mask": mask, "label": torch.tensor(label),
    "ref_logps": torch.tensor(reference.sum(1)),
    "ref_KL_logps": torch.zeros(2 * P),
  }  # fmt: skip

  def ours(logp):
    ratio = preference.sequence_logp(logp - reference, jnp.asarray(MASK))
    point = unpaired.kto_reference(jnp.asarray(far)) if kind == "kto" else 0.0
    return unpaired.kto(
      ratio, jnp.asarray(label), point, beta=BETA, desirable_weight=1.5,
      undesirable_weight=0.7,
    ).mean()  # fmt: skip

  _compare(
    ours, lambda x: loss(fake, lambda **_: _outputs(x), inputs, False), logp
  )


@pytest.mark.parametrize("margin", [False, True])
def test_reward_trainer(margin):
  loss = _method(
    ["trl.trainer.reward_trainer"], "RewardTrainer", "compute_loss"
  )
  fake = types.SimpleNamespace(
    model=types.SimpleNamespace(training=True), accelerator=_accelerator(),
    args=types.SimpleNamespace(center_rewards_coefficient=0.01),
    _metrics={"train": _Metrics()}, _total_train_tokens=0, _tp_size=1,
  )  # fmt: skip
  rewards = np.random.default_rng(7).normal(size=2 * P).astype(np.float32)
  gap = np.linspace(0, 1, P).astype(np.float32)

  def theirs(x):
    inputs = {"attention_mask": torch.ones(2 * P, 1)}
    if margin:
      inputs["margin"] = torch.tensor(gap)
    model = lambda **_: types.SimpleNamespace(logits=x[:, None])
    return loss(fake, model, inputs)

  def ours(x):
    c, r = x[:P], x[P:]
    pair = preference.pairwise(c, r, beta=1.0, margin=gap if margin else 0.0)
    return (pair + 0.01 * preference.centring(c, r)).mean()

  _compare(ours, theirs, rewards)


def test_bco_trainer():
  """Two batches, so that delta is a running mean; the second is compared."""
  module = ["trl.experimental.bco.bco_trainer", "trl.trainer.bco_trainer"]
  loss = _method(module, "BCOTrainer", "bco_loss")
  seen = []

  def update(rewards):
    seen.extend(rewards.tolist())
    running.mean = float(np.mean(seen))

  running = types.SimpleNamespace(mean=0.0, update=update)
  fake = types.SimpleNamespace(
    beta=BETA, running=running, match_underlying_distribution=True,
    _get_udm_weight=lambda embeddings: torch.tensor([0.5, 2.0, 1.0]),
  )  # fmt: skip
  rng = np.random.default_rng(8)
  first, ratio = rng.normal(size=(2, 5)).astype(np.float32)
  zero = torch.zeros(2), torch.zeros(3)

  def theirs(x):
    return loss(fake, x[:2], x[2:], *zero, None, None)[0].mean()

  theirs(torch.tensor(first))
  label = jnp.array([1, 1, 0, 0, 0], bool)
  mean = unpaired.bco_delta(jnp.asarray(first), beta=BETA)

  def ours(x):
    delta = mean + (unpaired.bco_delta(x, beta=BETA) - mean) * 5 / 10
    weight = jnp.array([9.0, 9.0, 0.5, 2.0, 1.0])  # the labels' are not read
    return unpaired.bco(
      x, label, delta, beta=BETA, density_weight=weight
    ).mean()

  _compare(ours, theirs, ratio)


def test_xpo_trainer():
  """Its pair and its bonus; values differ by alpha times the reference's."""
  module = ["trl.experimental.xpo.xpo_trainer", "trl.trainer.xpo_trainer"]
  loss = _method(module, "XPOTrainer", "_compute_losses")
  alpha = 0.05
  fake = types.SimpleNamespace(
    beta=BETA, alpha=alpha, args=types.SimpleNamespace(loss_type="sigmoid")
  )
  logp, reference = _tokens(9)
  wins = np.array([True, False, False, True])
  own, other = reference[:P], reference[P:]

  def theirs(x):
    x = _masked(x)
    total, _, _ = loss(
      fake, x[:P], x[P:], torch.tensor(other), torch.tensor(own),
      torch.tensor(wins),
    )  # fmt: skip
    return total - alpha * float(other.sum(1).mean())

  def ours(x):
    mine, theirs = _scores(x, reference)
    c, r = jnp.where(wins, mine, theirs), jnp.where(wins, theirs, mine)
    pair = preference.pairwise(c, r, beta=BETA)
    return (pair + unpaired.exploration(theirs, alpha=alpha)).mean()

  _compare(ours, theirs, logp)


def test_nash_md_trainer():
  """The gradient of the score form, with a log-ratio per token."""
  module = [
    "trl.experimental.nash_md.nash_md_trainer", "trl.trainer.nash_md_trainer"
  ]  # fmt: skip
  loss = _method(module, "NashMDTrainer", "_compute_losses")
  fake = types.SimpleNamespace(beta=BETA)
  logp, reference = _tokens(10)
  probability = np.float32(np.linspace(0.1, 0.9, 2 * P))

  def theirs(x):
    values = torch.tensor(reference), torch.tensor(probability)
    return loss(fake, _masked(x), *values)[0]

  def ours(x):
    x = jnp.where(MASK, x, 0)
    advantage = unpaired.nash_md_advantage(
      probability[:, None], x - reference, beta=BETA
    )
    return -(advantage * x).sum(1).mean()

  _compare(ours, theirs, logp)


def test_torch_scores():
  """log odds and the JS score against torch's float64 functions."""
  a, b = np.float32([-1e-3, -0.2, -3.0, -40.0]), np.float32([-2, -1, -0.5, -5])
  odds = lambda x: x - torch.log(-torch.expm1(x))
  want = odds(torch.tensor(a).double()) - odds(torch.tensor(b).double())
  np.testing.assert_allclose(preference.odds_ratio(a, b), want, rtol=1e-5)
  u = torch.linspace(-90, 90, 7).double()
  want = math.log(2) + torch.nn.functional.logsigmoid(u)
  got = preference.f_score(jnp.asarray(u.numpy(), jnp.float32), "js")
  np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)
