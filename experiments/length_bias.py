"""Who is paid for long wrong answers? GRPO against Dr. GRPO, without a model.

A mean over the tokens of each response gives every token of a long answer a
smaller weight. Where the reward does not depend on the length, the loss then
pays A grad E[1 / L]: wrong answers grow and right ones shrink. Three worlds:

- `exact`: a coin says right or wrong and stays a coin; then the answer stops
  with a chance of its own for each outcome, 1/10 at first, at the latest after
  64 tokens. The only parameters are the two logits.
- `skip`: a policy may skip its thought (10 tokens instead of 100), which is as
  good for easy prompts (.97 against .95) and bad for hard ones (.10, .80).
- `tokens`: a transformer as it was drawn, 64 tokens, through the steps of
  `grpo`, `dr_grpo` and `dapo`. The first token decides: odd is right. Once it
  is learned as usual, and once left out of the loss (`held`), so that there
  are wrong answers to the end; its chance then drifts with shared weights.

The first two use ops/advantage.py and ops/masked.py alone and plain gradient
descent; its rates, 1 and 30, are the free parameter of the recorded numbers.

  python -m experiments.length_bias --seeds=0,1,2

Writes length_bias.json, .md and .png. A few minutes on 2 CPU cores; 15 seconds
with `--seeds=`, which leaves the transformer out.
"""

from __future__ import annotations

import argparse
import functools
import json
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from configs import common
from rlreward import config as config_lib
from rlreward import registry
from rlreward.ops import advantage, masked
from rlreward.types import Score, Task

# Aggregation of the loss and scale of the advantages.
WAYS: dict[str, tuple[masked.Mode, str]] = {
  "grpo": ("seq_mean_token_mean", "group"),
  "dr_grpo": ("const", "none"),
  "dapo": ("token_mean", "group"),
}
MOST, MEAN = 64, 10.0  # longest answer, and mean length at first
UPDATES, GROUPS, GROUP = 400, 32, 8
LONG, SHORT = 100, 10  # tokens of an answer with a thought and without
CHANCE = ((0.95, 0.97), (0.80, 0.10))  # right: easy, hard x think, skip
RATE = {"exact": 1.0, "skip": 30.0}
# Means over 8 seeds in the notes that the worlds are from: lengths of wrong and
# of right answers; skips of easy and of hard prompts.
KNOWN = {
  "exact": {"grpo": (60.7, 1.0), "dr_grpo": (9.8, 9.9), "dapo": (10.1, 9.6)},
  "skip": {"grpo": (0.903, 0.001), "dr_grpo": (0.605, 0.018)},
}


def _loss(logp, reward, mask, groups: int, way: str, most: int):
  """The policy-gradient loss of a way, on-policy; f32[].

  Args:
    logp: f32[N, T].
    reward: f32[N].
    mask: bool[N, T].
    groups: prompts of the N rows.
    way: of WAYS.
    most: the constant of "const".
  """
  mode, scale = WAYS[way]
  r = reward.reshape(groups, -1)
  a = advantage.group_advantage(
    r, jnp.ones_like(r, bool), center="mean", scale=scale
  )
  ratio = jnp.exp(logp - jax.lax.stop_gradient(logp))
  total, weight = masked.reduce(-ratio * a.reshape(-1, 1), mask, mode, most)
  return total / jnp.maximum(weight, 1)


def _descend(loss, logits, rate: float, updates: int, seed):
  """(logits after, logits before each update) of gradient descent."""

  def body(z, key):
    return z - rate * jax.grad(loss)(z, key), z

  keys = jax.random.split(jax.random.key(seed), updates)
  return jax.lax.scan(body, logits, keys)


def stop_lengths(way: str, seed, updates: int = UPDATES):
  """Expected lengths of (wrong, right) answers, f32[updates + 1, 2].

  Args:
    way: of WAYS.
    seed: of the draws.
    updates: steps of gradient descent.
  """
  n = GROUPS * GROUP

  def loss(z, key):
    coin, draw = jax.random.split(key)
    right = jax.random.bernoulli(coin, 0.5, (n,)).astype(jnp.int32)
    own = z[right][:, None]
    stop = jax.random.uniform(draw, (n, MOST)) < jax.nn.sigmoid(own)
    mask = jnp.cumsum(stop, 1) - stop == 0
    logp = jax.nn.log_sigmoid(jnp.where(stop, own, -own))
    return _loss(logp, right.astype(jnp.float32), mask, GROUPS, way, MOST)

  first = jnp.full(2, -jnp.log(MEAN - 1))
  last, path = _descend(loss, first, RATE["exact"], updates, seed)
  h = jax.nn.sigmoid(jnp.concatenate([path, last[None]]))
  return (1 - (1 - h) ** MOST) / h


def skip_rates(way: str, seed, start: float = 0.5, updates: int = 600):
  """Chance to skip the thought of (easy, hard) prompts, f32[updates + 1, 2].

  Args:
    way: of WAYS.
    seed: of the draws.
    start: chance to skip at first.
    updates: steps of gradient descent.
  """
  groups, n = 16, 16 * GROUP
  kind = jnp.repeat(jnp.arange(groups) % 2, GROUP)
  chance, size = jnp.asarray(CHANCE), jnp.asarray((LONG, SHORT))

  def loss(z, key):
    choose, judge = jax.random.split(key)
    own = z[kind]
    skip = jax.random.uniform(choose, (n,)) < jax.nn.sigmoid(own)
    which = skip.astype(jnp.int32)
    right = jax.random.uniform(judge, (n,)) < chance[kind, which]
    mask = jnp.arange(LONG) < size[which][:, None]
    said = jax.nn.log_sigmoid(jnp.where(skip, own, -own))
    logp = jnp.zeros((n, LONG)).at[:, 0].set(said)  # the rest is given
    return _loss(logp, right.astype(jnp.float32), mask, groups, way, LONG)

  first = jnp.full(2, jnp.log(start / (1 - start)))
  last, path = _descend(loss, first, RATE["skip"], updates, seed)
  return jax.nn.sigmoid(jnp.concatenate([path, last[None]]))


def bandits(seeds: int = 8) -> dict[str, Any]:
  """Paths of the exact worlds, means over seeds, and the spread at the end."""
  out: dict[str, Any] = {}
  cold = functools.partial(skip_rates, start=1e-4)
  for name, world, ways in (
    ("exact", stop_lengths, tuple(WAYS)),
    ("skip", skip_rates, ("grpo", "dr_grpo")),
    ("cold", cold, ("grpo",)),
  ):
    out[name] = {}
    for way in ways:
      run = jax.jit(jax.vmap(functools.partial(world, way)))
      path = np.asarray(run(jnp.arange(seeds)), np.float64)
      out[name][way] = {
        "path": path.mean(0)[::10].round(5).tolist(),
        "last": path[:, -1].mean(0).tolist(),
        "sd": path[:, -1].std(0, ddof=1).tolist(),
      }
  return out


# ------------------------------------------------------------ the transformer
VOCAB, STOP_ID = 11, 0


def world() -> Task:
  """Odd first tokens are right, and what follows is only as long as it is."""

  def reward(rollout, batch):
    del batch
    first = rollout.tokens[:, 1]
    right = (first % 2 == 1).astype(jnp.float32)
    return Score(right, first != STOP_ID, None, {"right": right})

  def batches(split, size, seed):
    rng = np.random.default_rng([seed, split == "test"])
    while True:
      yield {
        "prompt": rng.integers(1, VOCAB, (size, 1)).astype(np.int32),
        "prompt_mask": np.ones((size, 1), bool),
      }

  spec = {"vocab_size": VOCAB, "prompt_length": 1, "completion_length": MOST,
          "stop_ids": (STOP_ID,), "pad_id": STOP_ID, "on_device": True,
          "tokenizer": None}  # fmt: skip
  return Task(batches, reward, reward, spec)


def settings(way: str, steps: int):
  """The config of a transformer's run."""
  c: Any = common.base()
  c.algorithm, c.steps = way, steps
  c.prompts_per_step, c.samples_per_prompt = 16, GROUP
  c.sampling.max_new_tokens = MOST
  c.optimizer.update(learning_rate=2e-3, clip_norm=0.0)
  c.model.update(vocab=VOCAB, width=32, layers=1, heads=2, kv_heads=2,
                 head_dim=16, mlp=64)  # fmt: skip
  return config_lib.freeze(c.to_dict())


def learner(way: str, held: bool, steps: int = 150):
  """(seed) -> {series: f64[steps]}: lengths of wrong and right, share right.

  Args:
    way: an algorithm.
    held: whether the first token is left out of the loss.
    steps: of a run.
  """
  c, task = settings(way, steps), world()
  method = registry.algorithm(way).make(c, task)
  assert method.phases is not None
  sample, update = method.phases.sample, method.phases.update

  def body(state, batch):
    rollout = sample(state, batch, jax.random.fold_in(state.key, state.step))
    score = task.reward(rollout, batch)
    if held:
      rollout = rollout._replace(loss=rollout.loss.at[:, 1].set(False))
    state, _ = update(state, rollout, score)
    n = jnp.sum(rollout.action, 1) - 1.0  # behind the first token
    right = score.valid & (score.value > 0)
    wrong = score.valid & (score.value == 0)
    mean = lambda x, m: jnp.sum(jnp.where(m, x, 0)) / jnp.sum(m)
    return state, (mean(n, wrong), mean(n, right), mean(right, score.valid))

  run = jax.jit(lambda key, rows: jax.lax.scan(body, method.init(key), rows)[1])

  def trained(seed: int) -> dict[str, np.ndarray]:
    stream = task.batches("train", c.prompts_per_step, seed)
    rows = [next(stream) for _ in range(steps)]
    stacked = {k: jnp.stack([r[k] for r in rows]) for k in rows[0]}
    names = ("wrong", "right", "accuracy")
    found = run(jax.random.key(seed), stacked)
    return dict(zip(names, map(np.asarray, found), strict=True))

  return trained


def measure(seeds: Sequence[int]) -> dict[str, Any]:
  """The whole result.

  Args:
    seeds: of the transformer's runs.
  """
  runs: dict[str, Any] = {}
  for held in (False, True) if seeds else ():
    for way in WAYS:
      run = learner(way, held)
      each = [run(seed) for seed in seeds]
      runs[f"{way}{' held' if held else ''}"] = {
        k: [np.round(r[k], 4).tolist() for r in each] for k in each[0]
      }
  return {"seeds": list(seeds), "bandits": bandits(), "runs": runs}


def ends(run: dict[str, Any], series: str) -> tuple[float, float, float]:
  """(mean of the first tenth, of the last, its deviation over seeds).

  Args:
    run: of `measure`.
    series: wrong, right or accuracy; steps without such an answer are left out.
  """
  x = np.asarray(run[series], np.float64)
  n = x.shape[1] // 10
  first, last = np.nanmean(x[:, :n], 1), np.nanmean(x[:, -n:], 1)
  return float(first.mean()), float(last.mean()), float(last.std(ddof=1))


def table(result: dict[str, Any]) -> str:
  """The page."""
  out = ["| world | loss | wrong: length | right: length | recorded |",
         "|---|---|---|---|---|"]  # fmt: skip
  say = lambda r, i: f"{r['last'][i]:.2f} ± {r['sd'][i]:.2f}"
  share = lambda r, i: f"{r['last'][i]:.3f} ± {r['sd'][i]:.3f}"
  both = lambda x: "-" if x is None else f"{x[0]}, {x[1]}"
  for way, r in result["bandits"]["exact"].items():
    known = both(KNOWN["exact"].get(way))
    out.append(f"| exact | {way} | {say(r, 0)} | {say(r, 1)} | {known} |")
  out += ["", "| world | loss | easy: skips | hard: skips | recorded |",
          "|---|---|---|---|---|"]  # fmt: skip
  for world_name in ("skip", "cold"):
    for way, r in result["bandits"][world_name].items():
      known = KNOWN["skip"].get(way) if world_name == "skip" else (0.0, 0.0)
      out.append(f"| {world_name} | {way} | {share(r, 0)} | {share(r, 1)} |"
                 f" {both(known)} |")  # fmt: skip
  out += [
    "",
    f"Means over 8 seeds after {UPDATES} and 600 updates, ± their deviation."
    " `cold` begins at a chance of 1e-4 to skip.",
  ]
  if not result["runs"]:
    return "\n".join(out) + "\n"
  out += [
    "",
    "| transformer | wrong: length | right: length | share right |",
    "|---|---|---|---|",
  ]
  for name, run in result["runs"].items():
    cells = []
    for series, digits in (("wrong", 1), ("right", 1), ("accuracy", 2)):
      a, b, sd = ends(run, series)
      cells.append(f"{a:.{digits}f} to {b:.{digits}f} ± {sd:.{digits}f}")
    out.append(f"| {name} | " + " | ".join(cells) + " |")
  out += [
    "",
    "First to last tenth of the steps, means over"
    f" {len(result['seeds'])} seeds; steps without a wrong answer are left out."
    " `held`: the first token is not trained.",
  ]
  return "\n".join(out) + "\n"


COLOURS = {"grpo": "#c0392b", "dr_grpo": "#2980b9", "dapo": "#27ae60"}


def draw(result: dict[str, Any], path: pathlib.Path) -> None:
  """Lengths over updates in each world; wrong answers whole, right dashed."""
  import matplotlib

  matplotlib.use("Agg")
  from matplotlib import pyplot

  wide = 4 if result["runs"] else 2
  figure, panels = pyplot.subplots(1, wide, figsize=(4.3 * wide, 4.4),
                                   layout="constrained")  # fmt: skip
  for way, r in result["bandits"]["exact"].items():
    x = np.asarray(r["path"])
    at = 10 * np.arange(len(x))
    panels[0].plot(at, x[:, 0], color=COLOURS[way], label=way)
    panels[0].plot(at, x[:, 1], color=COLOURS[way], ls="--")
  panels[0].set(title="two logits", ylabel="tokens, wrong (right dashed)")
  for way, r in result["bandits"]["skip"].items():
    x = np.asarray(r["path"])
    at = 10 * np.arange(len(x))
    panels[1].plot(at, x[:, 0], color=COLOURS[way], label=f"{way}, easy")
    panels[1].plot(at, x[:, 1], color=COLOURS[way], ls="--",
                   label=f"{way}, hard")  # fmt: skip
  panels[1].set(title="skips of the thought", ylabel="share", ylim=(0, 1))
  for name, run in result["runs"].items():
    way, _, held = name.partition(" ")
    axes = panels[3 if held else 2]
    for series, style in (("wrong", "-"), ("right", "--")):
      x = np.asarray(run[series], np.float64)
      parts = np.array_split(x, 20, axis=1)
      known = [p[~np.isnan(p)] for p in parts]
      y = [p.mean() if p.size else np.nan for p in known]
      at = (np.arange(20) + 0.5) * x.shape[1] / 20
      axes.plot(at, y, style, color=COLOURS[way],
                label=way if series == "wrong" else None)  # fmt: skip
  for axes, title in zip(
    panels[2:],
    ("transformer", "transformer, first token not trained"),
    strict=False,
  ):
    axes.set(title=title, ylabel="tokens, wrong (right dashed)")
  for axes in panels:
    axes.set_xlabel("updates")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
  figure.savefig(path, dpi=130)
  pyplot.close(figure)


def main(argv: Sequence[str] | None = None) -> int:
  """Measures and writes the three files."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--seeds", default="0,1,2")
  parser.add_argument("--out", default="results")
  args = parser.parse_args(argv)
  result = measure([int(s) for s in args.seeds.split(",") if s])
  out = pathlib.Path(args.out)
  out.mkdir(parents=True, exist_ok=True)
  text = json.dumps(result)
  (out / "length_bias.json").write_text(text + "\n")
  (out / "length_bias.md").write_text(table(result))
  draw(result, out / "length_bias.png")
  print(table(result))
  return 0


if __name__ == "__main__":
  sys.exit(main())
