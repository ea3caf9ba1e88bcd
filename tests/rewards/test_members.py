"""Ensembles of loaded reward models: exported, read back, asked like one."""

import json
import shutil

import jax
import jax.numpy as jnp
import nano
import numpy as np
import pytest

from rlreward import cli, registry, reward_models, runs, scoring, train
from rlreward.config import freeze
from rlreward.errors import UserError
from rlreward.evals.probes import Row
from rlreward.models import ensemble_card
from rlreward.ops import aggregate
from rlreward.rewards import combine
from rlreward.rewards.members import Ensemble
from rlreward.tasks import tokens
from rlreward.types import Rollout

DIGITS = tokens.CharTokenizer("0123456789+-*=")
PAIRS = [
  {"prompt": f"{a}+{b}=", "chosen": str(a + b), "rejected": str(a * 10 + b)}
  for a in range(1, 4)
  for b in range(3)
]
ROWS = [[1, 2, 3], [4, 5], [6, 7, 8, 9, 2], [3]]
K = 4


def config(folder, **changes):
  """A nano ensemble, 2 x 2, on a text task of pairs."""
  data = folder / "pairs.jsonl"
  data.write_text("".join(json.dumps(r) + "\n" for r in PAIRS))
  (folder / "tok").mkdir(exist_ok=True)
  DIGITS.save(folder / "tok")
  c = nano.config(
    algorithm="ensembles", steps=1, eval__prompts=4, eval__every=0,
    ensemble__pretrain=2, ensemble__finetune=2, **changes,
  )  # fmt: skip
  c.optimizer.update(learning_rate=1e-2, eps=1e-8)
  c.model.outputs = 1
  c.model.vocab = DIGITS.vocab_size
  c.prompts_per_step = 4
  c.log.tensorboard = False
  c.task = c.task.__class__(
    {
      "name": "text",
      "train": str(data),
      "test": str(data),
      "prompt_length": 12,
      "answer_length": 12,
      "tokenizer": str(folder / "tok"),
    }
  )
  return freeze(c.to_dict())


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
  """(run directory, directory of the exported ensemble)."""
  folder = tmp_path_factory.mktemp("ensemble")
  train.run(config(folder), folder / "run")
  then = runs.export(folder / "run", folder / "out")
  assert "rlreward score" in then
  return folder / "run", folder / "out"


@pytest.fixture(scope="module")
def found(exported):
  return reward_models.load(exported[1], batch=2)


def members_of(found):
  assert isinstance(found.model, Ensemble)
  return found.model


@pytest.fixture
def copy(exported, tmp_path):
  """A copy that a test may break."""
  return shutil.copytree(exported[1], tmp_path / "copy")


def rollout(rows=ROWS):
  size = max(map(len, rows)) + 1
  ids, attend = (
    np.zeros((len(rows), size), np.int32),
    np.zeros((len(rows), size)),
  )
  for n, row in enumerate(rows):
    ids[n, : len(row)], attend[n, : len(row)] = row, 1
  mask = jnp.asarray(attend, bool)
  n = len(rows)
  zeros = jnp.zeros(n, jnp.int32)
  logp, version = jnp.zeros(ids.shape), jnp.asarray(0)
  tokens = jnp.asarray(ids)
  return Rollout(tokens, mask, mask, mask, logp, zeros, zeros + 1, version)


def refused(call, *words):
  with pytest.raises(UserError) as error:
    call()
  said = str(error.value)
  assert len(said.splitlines()) == 3
  assert all(w in said for w in words), said


# ------------------------------------------------------------ on disk
def test_members_are_directories_of_their_own(exported, found):
  run, out = exported
  card = ensemble_card.read(out)
  assert card is not None and card.rule == "mean"
  seeds = [(m.pretrain, m.finetune) for m in card.members]
  assert seeds == [(0, 0), (0, 1), (1, 0), (1, 1)]
  each = runs.load_members(run)
  got = members_of(found).members(ROWS)
  assert got.shape == (K, len(ROWS))
  for k, (member, own) in enumerate(zip(card.members, each, strict=True)):
    single = reward_models.load(out / member.path, batch=2)
    want = single.model.normalised(single.model.scores(ROWS))
    # Scores over the scale of random models, which is small.
    np.testing.assert_allclose(got[k], want, rtol=1e-3, atol=1e-3)
    assert nano.gap(single.model.variables, own.variables) == 0
  assert len({float(x) for x in got[:, 0]}) == K
  assert f"{K} members joined by mean" in found.note


def test_scores_are_the_rule_over_members(exported, found):
  model = members_of(found)
  each = model.members(ROWS)
  for rule in ensemble_card.RULES:
    card = ensemble_card.EnsembleCard(model.about.members, rule, 0.5)
    singles = [
      reward_models.load(exported[1] / m.path, batch=2) for m in card.members
    ]
    joined = reward_models.join(singles, card, "x", chunk=1)
    want = aggregate.aggregate(each.T, rule, coef=0.5)
    np.testing.assert_allclose(joined.model.scores(ROWS), want, atol=1e-4)


def test_traces_end_in_the_score(found):
  traces = found.model.traces(ROWS)
  assert [len(t) for t in traces] == [len(r) for r in ROWS]
  ends = [t[-1] for t in traces]
  np.testing.assert_allclose(ends, found.model.scores(ROWS), atol=1e-3)


def test_a_run_of_an_ensemble_has_no_single_model(exported):
  refused(
    lambda: runs.load(exported[0]), "holds an ensemble", "rlreward export"
  )


def test_adapters_are_merged_into_their_own_base(tmp_path):
  train.run(config(tmp_path, model__lora_rank=2), tmp_path / "run")
  each = runs.load_members(tmp_path / "run")
  assert len(each) == K and all("lora" not in m.variables for m in each)
  trunk = [m.variables["params"]["embed"]["embedding"] for m in each]
  assert (trunk[0] == trunk[1]).all() and (trunk[0] != trunk[2]).any()
  runs.export(tmp_path / "run", tmp_path / "out")
  found = reward_models.load(tmp_path / "out")
  assert np.isfinite(found.model.scores(ROWS)).all()


@pytest.mark.parametrize(
  ("change", "said"),
  [
    ({"rule": "product"}, "rule='product'"),
    ({"coef": -1.0}, "coef=-1.0"),
    ({"members": []}, "names no member"),
    ({"members": [{"where": "x"}]}, "is no record"),
    ({"format": 9}, "another format"),
    ({"members": [{"path": "gone"}]}, "gone"),
  ],
)
def test_broken_records_are_refused(copy, change, said):
  file = copy / ensemble_card.NAME
  file.write_text(json.dumps({**json.loads(file.read_text()), **change}))
  refused(lambda: reward_models.load(copy), said)


def test_a_member_with_other_weights_is_refused(copy):
  a, b = copy / "member_000", copy / "member_001"
  shutil.copy(b / "model.safetensors", a / "model.safetensors")
  refused(lambda: reward_models.load(copy), "does not reproduce", "member_000")


def test_members_that_read_other_tokens_are_refused(exported):
  singles = [
    reward_models.load(exported[1] / f"member_{k:03d}").model for k in (0, 1)
  ]
  about = ensemble_card.EnsembleCard([ensemble_card.Member("")] * 2)
  singles[1].card = singles[1].card._replace(read="last")
  refused(lambda: Ensemble(singles, about), "members 0 and 1", "read")
  refused(lambda: Ensemble([], about), "without members")


# ------------------------------------------------------------ as a reward
def test_a_reward_with_its_members_as_components(found):
  model = members_of(found)
  score = model.reward(rollout(), {})
  each = model.members(ROWS)
  np.testing.assert_allclose(score.value, each.mean(0), atol=1e-5)
  assert set(score.components) == {*(f"member/{k}" for k in range(K)), "spread"}
  for k in range(K):
    np.testing.assert_array_equal(score.components[f"member/{k}"], each[k])
  np.testing.assert_allclose(score.components["spread"], each.std(0), rtol=1e-4)
  assert bool(score.valid.all())


def test_a_shaping_may_join_the_members_in_another_way(found):
  score = members_of(found).reward(rollout(), {})
  names = [f"member/{k}" for k in range(K)]
  worst = combine.aggregate(names, "min", least=1)
  got, _ = worst.update(score, worst.init(), rollout())
  np.testing.assert_allclose(got.value, members_of(found).members(ROWS).min(0))


def test_a_dead_member_drops_out(exported):
  found = reward_models.load(exported[1], batch=2)
  model, want = members_of(found), members_of(found).members(ROWS)
  model.variables = jax.tree.map(
    lambda x: x.at[2].set(jnp.nan), model.variables
  )
  alive = [0, 1, 3]
  score = model.reward(rollout(), {})
  np.testing.assert_allclose(score.value, want[alive].mean(0), atol=1e-4)
  assert np.isnan(score.components["member/2"]).all()
  np.testing.assert_allclose(
    score.components["spread"], want[alive].std(0), rtol=1e-3
  )
  assert bool(score.valid.all())
  traces = [t[-1] for t in model.traces(ROWS)]
  np.testing.assert_allclose(traces, score.value, atol=1e-3)
  model.variables = jax.tree.map(lambda x: x * jnp.nan, model.variables)
  score = model.reward(rollout(), {})
  assert not score.valid.any() and (score.value == 0).all()


def test_it_trains_a_policy(found, tmp_path):
  """One step of GRPO on the ensemble, components in its metrics."""
  model = members_of(found)
  c = nano.config(steps=1, eval__every=0, eval__prompts=4)
  c.log.tensorboard = False
  own = registry.task(c)
  task = own._replace(
    reward=model.reward, spec={**own.spec, "on_device": False}
  )
  assert c.model.vocab <= DIGITS.vocab_size
  train.run(freeze(c.to_dict()), tmp_path / "run", task=task)
  lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
  row = next(r for r in map(json.loads, lines) if "loss" in r)
  mean = np.mean([row[f"reward/member/{k}"] for k in range(K)])
  assert row["reward"] == pytest.approx(mean, abs=1e-4)
  assert row["reward/spread"] > 0


def test_an_audit_may_ask_it(found):
  scorer = reward_models.scorer(found)
  assert scorer.score is not None
  rows = [Row("1+1=", "2"), Row("1+1=", "3"), Row("1+1=", "")]
  score = scorer.score(rows)
  assert list(score.valid[:2]) == [True, True]


def test_rows_are_scored_and_resumed_by_the_command(exported, tmp_path, capsys):
  source = tmp_path / "rows.jsonl"
  source.write_text("".join(json.dumps(r) + "\n" for r in PAIRS))
  out = tmp_path / "scores.jsonl"
  line = f"score --model={exported[1]} --input={source} --out={out} --tokens"
  assert cli.main(line.split()) == 0
  rows = [json.loads(x) for x in out.read_text().splitlines()]
  assert len(rows) == len(PAIRS) and all(len(r["scores"]) == 2 for r in rows)
  assert "members joined by mean" in capsys.readouterr().err
  found = reward_models.load(exported[1])
  again = tmp_path / "again.jsonl"
  counts = scoring.run(found, source, again, normalise=True)
  assert counts.scored == 2 * len(PAIRS)
  plain = [json.loads(x)["scores"] for x in again.read_text().splitlines()]
  np.testing.assert_allclose(plain, [r["scores"] for r in rows], atol=1e-4)
