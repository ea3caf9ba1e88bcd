"""The benchmarks run at a size that takes no time, and judge as they say."""

import json
import sys

import jax
import jax.numpy as jnp
import numpy as np
import paths
import pytest

sys.path.insert(0, str(paths.REPO))

from benchmarks import bench_bound, bench_rlreward, compare, run, workload
from rlreward.models import score
from rlreward.steps import roles

NANO = workload.SIZES["nano"]
OURS = {"update_given_reference", "update_with_reference"}
SHARED = {"generate", "score", "update", "grpo_step"}


@pytest.mark.parametrize("bench", [bench_rlreward, bench_bound])
@pytest.mark.parametrize("mode", ["steady", "first"])
def test_report_has_the_keys_of_the_peers(bench, mode, capsys, monkeypatch):
  monkeypatch.setenv("BENCH_MAX_S", "0")
  bench.main(NANO, mode)
  report = json.loads(capsys.readouterr().out.splitlines()[-1])
  mine = OURS if bench is bench_rlreward else set()
  want = SHARED | mine if mode == "steady" else {"first_step_s", "loss"}
  assert report["results"].keys() == want
  assert report["peak_rss_mib"] > 0
  for key, value in report["results"].items():
    if mode == "steady":
      assert value["cpu_median_s"] > 0 and value["tok_s"] > 0, key


def test_sizes_count_the_parameters_of_the_yardstick():
  counted = {n: workload.SIZES[n].params for n in ("S", "M")}
  assert counted == {"S": 3_672_320, "M": 31_465_984}


def test_bound_is_the_same_decoder():
  """Our weights in the bound's layout give our log-probs (f32: 1e-5)."""
  actor = roles.policy(bench_rlreward.config(NANO).model)
  params = actor.model.init(jax.random.key(3))["params"]
  # Norm scales away from 1 so that a missing one shows.
  params = jax.tree.map(lambda x: x * 1.1 + 0.01, params)
  layers = params["layers"]

  def layer(index):
    p = jax.tree.map(lambda x: x[index], layers)
    kernel = lambda part, *names: jnp.concatenate(
      [p[part][n]["kernel"] for n in names], 1
    )
    return {
      "attn_norm": p["attn_norm"]["scale"],
      "qkv": kernel("attn", "q", "k", "v"),
      "out": kernel("attn", "o"),
      "mlp_norm": p["mlp_norm"]["scale"],
      "gate_up": kernel("mlp", "gate", "up"),
      "down": kernel("mlp", "down"),
    }

  theirs = {
    "embed": params["embed"]["embedding"],
    "layers": [layer(i) for i in range(NANO.layers)],
    "norm": params["final_norm"]["scale"],
    "head": params["head"]["kernel"],
  }
  prompt = bench_rlreward.prompts(NANO)["prompt"]
  tokens = bench_bound.generate(theirs, prompt, jax.random.key(0), NANO)
  assert tokens.shape == (NANO.rows, NANO.prompt + NANO.new)
  ours, _ = score.completion_logprob(
    actor.model,
    {"params": params},
    tokens,
    jnp.ones(tokens.shape, bool),
    NANO.prompt,
    NANO.group,
  )
  bound = bench_bound.logprobs(theirs, tokens, NANO)
  np.testing.assert_allclose(bound, ours, atol=1e-5)


def report(peer, wall, cpu, **more):
  stats = {"median_s": wall, "cpu_median_s": cpu}
  base = {"peer": peer, "size": "S", "mode": "steady"}
  return {**base, "results": {"grpo_step": stats}, **more}


@pytest.mark.parametrize(("cpu", "reached"), [(3.2, True), (3.3, False)])
def test_a_target_needs_wall_and_core_seconds(cpu, reached):
  target = compare.Target("S", "steady", "grpo_step", "tunix", 0.8)
  rounds = [report("rlreward", 1.0, x) for x in (9.0, cpu, 0.0)]
  found = compare.judge([*rounds, report("tunix", 2.0, 4.0)], target)
  assert found["wall"] == 0.5 and found["core"] == pytest.approx(cpu / 4)
  assert found["reached"] is reached


def test_what_was_not_measured_is_not_reached():
  target = compare.Target("S", "steady", "grpo_step", "trl", 0.65)
  found = compare.judge([report("rlreward", 1.0, 1.0)], target)
  assert found["reached"] is None
  table = "\n".join(compare.target_lines([]))
  assert table.count("not measured") == len(compare.TARGETS)


def test_rounds_alternate_and_only_we_run_warm():
  mine = [run.Runner(n, "", paths.REPO, False) for n in ("rlreward", "trl")]
  plan = run.plan(mine, ["S"], ["first", "warm"], 2)
  assert [(i, part, r.peer) for i, _, part, r in plan] == [
    (0, "first", "rlreward"),
    (0, "first", "trl"),
    (0, "warm", "rlreward"),
    (1, "first", "trl"),
    (1, "first", "rlreward"),
    (1, "warm", "rlreward"),
  ]


def test_caches_are_empty_for_first_and_kept_for_warm(tmp_path):
  ours, bound = (
    run.Runner(n, "", paths.REPO, True) for n in ("rlreward", "bound")
  )
  cold = [run.cache_of(tmp_path, ours, "S", "first") for _ in range(2)]
  assert cold[0] != cold[1] and not any(list(c.iterdir()) for c in cold if c)
  warm = {run.cache_of(tmp_path, ours, "S", "warm") for _ in range(2)}
  assert len(warm) == 1 and warm.isdisjoint(cold)
  assert run.cache_of(tmp_path, ours, "S", "steady") is None
  assert run.cache_of(tmp_path, bound, "S", "first") is None
  env = run.environment(cold[0])
  assert env["JAX_COMPILATION_CACHE_DIR"] == str(cold[0])
  assert env["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] == "0"
  assert "JAX_COMPILATION_CACHE_DIR" not in run.environment(None)


def test_a_peer_is_stopped_after_its_step_and_a_failure_is_told(tmp_path):
  script = tmp_path / "bench_toy.py"
  script.write_text(
    "import json, os, sys, time\n"
    "if sys.argv[1] == 'M': sys.exit('out of memory')\n"
    "os.makedirs('results', exist_ok=True)\n"
    "json.dump({'results': {'grpo_step': 1.0}},\n"
    "          open('results/toy_S_steady.json', 'w'))\n"
    "print('[toy S] grpo_step: 1.0', flush=True)\n"
    "time.sleep(60)\n"
  )
  toy = run.Runner("toy", sys.executable, script, False)
  found = run.run(toy, "S", "steady", limit=30)
  assert found["results"] == {"grpo_step": 1.0} and "error" not in found
  assert "out of memory" in run.run(toy, "M", "steady")["error"]
