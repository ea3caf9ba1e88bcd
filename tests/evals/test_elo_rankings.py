"""Elo against a recorded tournament, Bradley-Terry against scipy."""

import json
import math

import numpy as np
import paths
import pytest

from rlreward import errors
from rlreward.evals import rankings, sources
from rlreward.evals.rankings import Game

NAME = "32b_32bvs32b_72b-1"


def tournament():
  folder = paths.shared_data("mpo_elo")
  rows = sources.records(folder / f"{NAME}_matches.jsonl.gz")
  games = [
    rankings.game(r["model_a"], r["model_b"], r["winner"]) for _, r in rows
  ]
  return games, json.loads((folder / f"{NAME}.scores.json").read_text())


def test_sequential_elo_is_the_recorded_one():
  games, want = tournament()
  assert len(games) == 500
  found = rankings.elo(games)  # k 4, start 1000, scale 400
  assert found == pytest.approx(want, abs=1e-9)
  # It depends on the order of play; Bradley-Terry does not.
  assert rankings.elo(games[::-1]) != pytest.approx(want, abs=0.5)


def test_bradley_terry_of_two_has_a_closed_form():
  games, _ = tournament()
  wins = sum(g.result if g.a == "32b_72b" else 1 - g.result for g in games)
  assert wins == 264
  gap = 400 * math.log10(264 / 236)
  found = rankings.bradley_terry(games, resamples=200)
  strong, weak = found.rating["32b_72b"], found.rating["32b_32b"]
  assert strong - weak == pytest.approx(gap, abs=1e-6)
  assert strong + weak == pytest.approx(2000, abs=1e-9)
  want = 264 * math.log(264 / 500) + 236 * math.log(236 / 500)
  assert found.log_likelihood == pytest.approx(want, abs=1e-9)
  assert found.low["32b_72b"] < strong < found.high["32b_72b"]
  back = rankings.bradley_terry(games[::-1])
  assert back.rating == pytest.approx(found.rating, abs=1e-6)


def league(seed=0, players=6, count=400, ties=True):
  rng = np.random.default_rng(seed)
  skill = rng.normal(0, 1, players)
  games = []
  for _ in range(count):
    a, b = rng.choice(players, 2, replace=False)
    p = 1 / (1 + math.exp(skill[b] - skill[a]))
    result = float(rng.random() < p)
    if ties and rng.random() < 0.1:
      result = 0.5
    games.append(Game(f"p{a}", f"p{b}", result))
  return games, skill


def test_bradley_terry_equals_the_maximum_of_scipy():
  optimize = pytest.importorskip("scipy.optimize")
  games, _ = league()
  names = sorted({p for g in games for p in g[:2]})
  place = {n: i for i, n in enumerate(names)}

  def loss(theta):
    total = 0.0
    for g in games:
      gap = theta[place[g.a]] - theta[place[g.b]]
      total += g.result * np.logaddexp(0, -gap)
      total += (1 - g.result) * np.logaddexp(0, gap)
    return total + np.mean(theta) ** 2

  best = optimize.minimize(loss, np.zeros(len(names)), tol=1e-12)
  found = rankings.bradley_terry(games)
  scaled = 1000 + (best.x - best.x.mean()) * 400 / math.log(10)
  for name in names:
    # Points; scipy's gradient by differences is good to about 1e-3 of them.
    assert found.rating[name] == pytest.approx(scaled[place[name]], abs=0.05)
  assert -found.log_likelihood <= best.fun + 1e-9


def test_bradley_terry_intervals_cover():
  games, skill = league(1, 4, 10)
  covered = total = 0
  truth = 1000 + (skill - skill.mean()) * 400 / math.log(10)
  for seed in range(60):
    rng = np.random.default_rng(100 + seed)
    games = []
    for _ in range(150):
      a, b = rng.choice(4, 2, replace=False)
      p = 1 / (1 + math.exp(skill[b] - skill[a]))
      games.append(Game(str(a), str(b), float(rng.random() < p)))
    found = rankings.bradley_terry(games, resamples=120, seed=seed)
    for i in range(4):
      covered += found.low[str(i)] <= truth[i] <= found.high[str(i)]
      total += 1
  assert 0.88 < covered / total < 1.0  # 95 % and 240 dependent draws


def test_what_cannot_be_rated_is_said():
  with pytest.raises(errors.UserError, match="no win against a"):
    rankings.bradley_terry([Game("a", "b", 1.0), Game("b", "c", 0.5)])
  rated = rankings.bradley_terry([Game("a", "b", 1.0)] * 3, prior=1.0)
  # Three wins and a tie: odds of 3.5 to 0.5.
  gap = rated.rating["a"] - rated.rating["b"]
  assert gap == pytest.approx(400 * math.log10(7), abs=1e-6)
  with pytest.raises(errors.UserError, match="maximum"):
    rankings.bradley_terry(
      [Game("a", "b", 0.5), Game("c", "d", 0.5)]
    )  # two leagues that never met
  with pytest.raises(errors.UserError, match="none with a verdict"):
    rankings.bradley_terry([Game("a", "b", math.nan)])
  with pytest.raises(errors.UserError, match="'z' won a game"):
    rankings.game("a", "b", "z")


def test_games_without_a_verdict_are_counted_apart():
  games, _ = league(2)
  gone = [*games, Game("p0", "p1", math.nan)]
  found = rankings.bradley_terry(gone)
  assert (found.games, found.abstained) == (400, 1)
  assert found.rating == pytest.approx(rankings.bradley_terry(games).rating)
  assert rankings.elo(gone) == rankings.elo(games)
  level = rankings.elo([rankings.game("a", "b", "tie")] * 9)
  assert level == {"a": 1000.0, "b": 1000.0}
