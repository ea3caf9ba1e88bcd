"""Ratings of players from games: sequential Elo and Bradley-Terry Elo.

Elo in the order of play is what tournaments record; it depends on that order
and never settles. Bradley-Terry's maximum of the likelihood does not depend on
it, and has an interval. A tie is half a win for each side.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from rlreward.errors import UserError
from rlreward.evals import intervals

SCALE = 400.0  # Elo points that are worth odds of 10 to 1


class Game(NamedTuple):
  """One comparison.

  Attributes:
    a: a player.
    b: another.
    result: what `a` scored: 1 won, 0 lost, 1/2 tied. NaN is no verdict: the
      game is not counted.
  """

  a: str
  b: str
  result: float


def game(a: str, b: str, winner: str) -> Game:
  """A game from the name of its winner, "tie" or "" for a tie.

  Raises:
    UserError: the winner did not play.
  """
  if winner in ("tie", ""):
    return Game(a, b, 0.5)
  if winner not in (a, b):
    raise UserError(
      f"{winner!r} won a game of {a!r} and {b!r}",
      "the winner must have played",
      "name one of the two, or tie",
    )
  return Game(a, b, float(winner == a))


def expected(a: float, b: float, scale: float = SCALE) -> float:
  """What a player of rating `a` scores against `b`: 1 / (1 + 10^((b-a)/s))."""
  return 1 / (1 + 10 ** ((b - a) / scale))


def elo(
  games: Sequence[Game],
  k: float = 4.0,
  start: float = 1000.0,
  scale: float = SCALE,
) -> dict[str, float]:
  """Sequential Elo, game by game in the order of play.

    r_a += k (result - expected(r_a, r_b)),  r_b by the opposite

  Args:
    games: in the order of play.
    k: points that a game moves at most.
    start: of a player that has not played.
    scale: points worth odds of 10 to 1.

  Returns:
    {player: rating}; the mean stays at `start`.

  Reference: Meta Policy Optimization's judge tournaments (k = 4), arXiv
  2504.20157.
  """
  rating: dict[str, float] = {}
  for a, b, result in games:
    x, y = rating.setdefault(a, start), rating.setdefault(b, start)
    if result != result or a == b:
      continue
    move = k * (result - expected(x, y, scale))
    rating[a], rating[b] = x + move, y - move
  return rating


class Ratings(NamedTuple):
  """Bradley-Terry ratings in Elo points.

  Attributes:
    rating: {player: points}, mean `start`.
    low, high: {player: points}, of the bootstrap; empty without one.
    log_likelihood: f, nats, of the games with a verdict.
    games: how many had one.
    abstained: how many had none.
  """

  rating: dict[str, float]
  low: dict[str, float]
  high: dict[str, float]
  log_likelihood: float
  games: int
  abstained: int


def bradley_terry(
  games: Sequence[Game],
  start: float = 1000.0,
  scale: float = SCALE,
  prior: float = 0.0,
  resamples: int = 0,
  seed: int = 0,
  level: float = 0.95,
) -> Ratings:
  """The ratings under which the games are most likely.

    max_theta sum_g result log s(theta_a - theta_b)
                    + (1 - result) log s(theta_b - theta_a)

  by Newton's method; rating = start + theta scale / log 10.

  Args:
    games: in any order.
    start: mean of the ratings.
    scale: points worth odds of 10 to 1.
    prior: ties that each two players are given on top; above 0 the ratings
      exist whatever the games.
    resamples: of the bootstrap over games; 0 leaves it out.
    seed: of the bootstrap.
    level: of its intervals.

  Returns:
    Ratings. A resample in which the maximum does not exist is left out of the
    intervals.

  Raises:
    UserError: no game has a verdict, or the maximum does not exist: some
      players never won against, or never met, the others.

  Reference: Bradley and Terry 1952; Ford 1957; Chatbot Arena, arXiv
  2403.04132.
  """
  names = list(dict.fromkeys(p for g in games for p in (g.a, g.b)))
  kept = [g for g in games if g.result == g.result and g.a != g.b]
  if not kept:
    raise UserError(
      f"{len(games)} games and none with a verdict",
      "there is nothing to rate",
      "give games with a result between two players",
    )
  place = {name: i for i, name in enumerate(names)}
  a = np.asarray([place[g.a] for g in kept])
  b = np.asarray([place[g.b] for g in kept])
  result = np.asarray([g.result for g in kept], float)
  unit = scale / np.log(10)

  def table(times: np.ndarray) -> np.ndarray:
    wins = np.full((len(names),) * 2, prior / 2)
    np.fill_diagonal(wins, 0)
    np.add.at(wins, (a, b), times * result)
    np.add.at(wins, (b, a), times * (1 - result))
    return wins

  wins = table(np.ones(len(kept)))
  stuck = _beyond(wins)
  if stuck is not None:
    strong = ", ".join(names[i] for i in stuck[:5])
    raise UserError(
      f"the others have no win against {strong}",
      "the likelihood has no maximum: the distance would be infinite",
      "give more games, or prior=1: one tie between each two players",
    )
  theta = _newton(wins)
  found: list[np.ndarray] = []
  one = np.zeros(len(kept))
  for times in intervals.draws(one, np.arange(len(kept)), resamples, seed):
    drawn = table(times)
    if _beyond(drawn) is None:
      found.append(start + unit * _newton(drawn))
  bands = [intervals.band(x, level) for x in np.transpose(found)]
  gap = theta[a] - theta[b]
  likely = -result * np.logaddexp(0, -gap) - (1 - result) * np.logaddexp(0, gap)
  named = lambda x: dict(zip(names, map(float, x), strict=False))
  return Ratings(
    named(start + unit * theta),
    named(low for low, _ in bands),
    named(high for _, high in bands),
    float(likely.sum()),
    len(kept),
    len(games) - len(kept),
  )


def _beyond(wins: np.ndarray) -> np.ndarray | None:
  """Players that lost to none of the others; None if a maximum exists.

  It exists if and only if each player is reached from each other by wins.
  """
  n = len(wins)
  reach = (wins > 0) | np.eye(n, dtype=bool)
  for _ in range(int(np.ceil(np.log2(max(n, 2))))):
    reach = (reach.astype(int) @ reach.astype(int)) > 0
  if reach.all():
    return None
  # Of the classes that beat one another, one that none outside has beaten.
  for i in range(n):
    alike = reach[i] & reach[:, i]
    if not np.any(wins[np.ix_(~alike, alike)]):
      return np.flatnonzero(alike)
  return np.arange(n)


def _newton(wins: np.ndarray) -> np.ndarray:
  """The maximum theta [P] with mean 0, of a table of wins [P, P]."""
  n, games = len(wins), wins + wins.T
  value = lambda t: -np.sum(wins * np.logaddexp(0, t[None] - t[:, None]))
  theta = np.zeros(n)
  for _ in range(100):
    p = 1 / (1 + np.exp(theta[None] - theta[:, None]))  # i beats j
    gradient = np.sum(wins - games * p, axis=1)
    curve = -games * p * (1 - p)
    np.fill_diagonal(curve, -curve.sum(axis=1))
    # The mean is free, and is held by the ones.
    step = np.linalg.solve(curve + np.ones((n, n)), gradient)
    size, now = 1.0, value(theta)
    while value(theta + size * step) < now - 1e-12 * abs(now) and size > 1e-9:
      size /= 2
    theta = theta + size * step
    if np.max(np.abs(size * step)) < 1e-12:
      break
  return theta - theta.mean()
