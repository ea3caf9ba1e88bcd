"""Credit of answers in turns: a turn is compared with the same turn of others.

  R_{n,k} = sum_{j >= k} gamma^(j - k) r_{n,j},
  A_{n,t} = advantage of R_{n,k} among the rows of the prompt with a turn k

where k is the turn of token t. With one turn, or with gamma = 1 and a reward of
the whole answer alone in rows of equally many turns, it is the credit of the
group. A turn that no other row of its prompt has is told nothing.

Reference: turn-level credit for tools, arXiv 2505.11821, where the first turn's
own reward is told apart from the answer's.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
from jax import lax

from rlreward import errors
from rlreward.ops import turns as turns_lib
from rlreward.steps import checks, credit, turns
from rlreward.types import Array, Task

Advantage = Callable[[Array, Array], Array]


def chosen(config, task: Task, advantage: Advantage, penalty) -> credit.Credit:
  """Credit of the whole answer, or by turns where `credit.baseline` is "turn".

  Args:
    config: a run's; `credit.gamma` is the discount of a turn.
    task: with a tool, if by turns.
    advantage: (reward f32[B, G], valid bool[B, G]) -> f32[B, G].
    penalty: KL in the reward, or None.

  Raises:
    UserError: turns of a task that has none.
  """
  c, tool = config.credit, turns.of(task)
  checks.credit(c)
  checks.choice("credit.baseline", c.baseline, ("", "turn"),
                "it says what an answer is compared with")  # fmt: skip
  if not c.baseline:
    return credit.group(advantage, penalty)
  if tool is None:
    raise errors.UserError(
      "credit.baseline='turn' on a task without a tool",
      "its answers have one turn",
      "set credit.baseline=''",
    )
  return by_turn(advantage, tool.turns + 1, c.gamma, penalty)


def by_turn(
  advantage: Advantage,
  most: int,
  gamma: float = 1.0,
  penalty: credit.Penalty | None = None,
) -> credit.Credit:
  """Credit of each turn from the same turn of the prompt's other samples.

  Args:
    advantage: (reward f32[B, G], valid bool[B, G]) -> f32[B, G].
    most: K, turns of a row; actions of later ones have none.
    gamma: discount of a turn.
    penalty: KL in the reward, at each token.
  """

  def assign(signals: credit.Signals, state):
    extra, state, metrics = credit.penalised(signals, state, penalty)
    steps = credit.token_rewards(signals, signals.reward, extra)
    reward, there = turns_lib.total(steps, signals.action, most)
    known = there & signals.valid[:, None]
    split = lambda x: signals.grouped(x).transpose(2, 0, 1)  # [K, B, G]
    found = jax.vmap(advantage)(
      split(turns_lib.to_go(reward, gamma)), split(known)
    )
    own = found.transpose(1, 2, 0).reshape(reward.shape)
    wide = turns_lib.spread(own * known, signals.action)
    return credit.Assigned(lax.stop_gradient(wide), None, metrics), state

  needs = credit.AHEAD if penalty else frozenset()
  return credit.Credit(needs, (), credit.start(penalty), assign)
