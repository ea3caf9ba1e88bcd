"""The laws that every algorithm and every paper's method obeys, in a table.

The table is the folders: a new file in rlreward/algorithms or rlreward/methods
is under the laws without a word here.
"""

import ast
import functools
import importlib
import io
import pathlib
import re
import runpy
import tempfile
import tokenize

import jax
import jax.numpy as jnp
import nano
import numpy as np
import paths
import pytest

from rlreward import config, errors, registry
from rlreward.models import pretrained
from rlreward.steps import roles
from rlreward.tasks import arithmetic
from rlreward.types import Arm, Method, State

FOLDERS = {"algorithms": 60, "methods": 120}  # most lines of code
TABLE = [
  (folder, name) for folder in FOLDERS for name in registry.names(folder)
]
METHODS = [name for folder, name in TABLE if folder == "methods"]
# Older than arXiv, or a technique without a paper of its own.
NO_PAPER = {"sft"}
# Chooses among samples; there is nothing to train.
UNTRAINED = {"best_of_n"}
# Each round begins at the first policy.
FROM_BASE = {"rest_em", "star"}
# Their reward has named parts.
IN_PARTS = {"toolrl", "reasoning_sql"}
each = pytest.mark.parametrize(("folder", "name"), TABLE, ids=lambda x: x)
# One algorithm for each way through the builders, and every paper's method:
# laws of the builders need not be compiled for each algorithm that they make.
WAYS = """grpo ppo remax bond nash_md sft dpo kto bco raft star online_dpo xpo
  spin self_rewarding distill reward_model best_of_n""".split()
each_way = pytest.mark.parametrize(
  ("folder", "name"),
  [(f, n) for f, n in TABLE if f == "methods" or n in WAYS],
  ids=lambda x: x,
)
of_methods = pytest.mark.parametrize("name", METHODS)


def source(folder, name):
  return (paths.REPO / "rlreward" / folder / f"{name}.py").read_text()


@functools.cache
def teacher():
  """A nano checkpoint on disk."""
  folder = pathlib.Path(tempfile.mkdtemp()) / "teacher"
  model = roles.policy(nano.config().model).model
  params = model.init(jax.random.key(9))["params"]
  pretrained.export(folder, model.config, params)
  return str(folder)


def needed(name, **changes):
  """The nano config with what this method cannot do without."""
  own = {
    "distill": lambda: {"teacher__path": teacher()},
    "reward_model": lambda: {"model__outputs": 1},
    "bond": lambda: {"loss__kl_beta": 0.0},  # its KL is in the reward
    "par": lambda: {"shaping__link": "preference"},
    "clip_delta": lambda: {"process__kind": "none"},  # rows without steps
    "format_length": lambda: {
      "shaping__link": "format_length",
      "shaping__names": ("even", "even"),
    },
    "topology": lambda: {"model__outputs": 1},
    "remodetect": lambda: {"model__outputs": 1},
    "helpsteer2_pref": lambda: {"model__outputs": 1},
    "helpsteer2": lambda: {"steer__samples": 3},
    "m_rewardbench": lambda: {"model__outputs": 1},
    "rag_rewardbench": lambda: {"model__outputs": 1},
    "rewardbench2": lambda: {
      "model__outputs": 1,
      "ensemble__pretrain": 1,
      "ensemble__finetune": 2,
      "ensemble__flip": 0.5,
    },
    "ensembles": lambda: {
      "model__outputs": 1,
      "ensemble__pretrain": 2,
      "ensemble__finetune": 2,
    },
    "summarize": lambda: {
      "loss__kl_beta": 0.0,
      "kl_reward__beta": 0.1,
      "learned__stage": 1,
      "start": {"algorithm": "reward_model", "model": {"outputs": 1}},
    },
    "asymptotics": lambda: {"loss__kl_beta": 0.0, "kl_reward__budget": 0.5},
  }.get(name, dict)()
  fields = {"loss__kl_beta": 0.1, "rounds__at": 0.0, **own, **changes}
  return nano.config(algorithm=name, **fields)


@functools.cache
def arithmetic_task():
  section = {"digits": 1, "judge_share": 0.2, "hint_share": 0.2}
  return arithmetic.make({"name": "arithmetic", **section})


def made_of(name, c):
  """(method, its task, a batch); arithmetic where nano's task is refused."""
  module = registry.algorithm(name)
  if name in IN_PARTS:
    task = nano.task(nano.in_parts)
    return module.make(c, task), task, nano.batch()
  try:
    return module.make(c, nano.task()), nano.task(), nano.batch()
  except errors.UserError:
    task = arithmetic_task()
  method = module.make(c, task)
  batch = next(getattr(task, method.source)("train", nano.B, 0))
  return method, task, {k: jnp.asarray(v) for k, v in batch.items()}


@functools.cache
def made(name):
  """(method, a batch that it takes) at the size of nano."""
  method, _, batch = made_of(name, needed(name))
  return method, batch


@functools.cache
def compiled(name):
  method, _ = made(name)
  return jax.jit(method.init), jax.jit(method.step)


def stepped(name, seed=0):
  """(first state, second state, metrics) of one step."""
  init, step = compiled(name)
  state = init(jax.random.key(seed))
  after, metrics = step(state, made(name)[1], state.key)
  return state, after, metrics


def bits(tree):
  """Leaves as numpy, typed keys as their bits."""
  is_key = lambda x: jnp.issubdtype(x.dtype, jax.dtypes.prng_key)
  return [
    np.asarray(jax.random.key_data(x) if is_key(x) else x)
    for x in jax.tree.leaves(tree)
  ]


def same(a, b):
  a, b = bits(a), bits(b)
  return len(a) == len(b) and all(
    x.tobytes() == y.tobytes() for x, y in zip(a, b, strict=True)
  )


def test_the_table_has_the_family():
  names = {name for _, name in TABLE}
  promised = """grpo dr_grpo dapo gspo cispo ppo reinforce rloo remax
    reinforce_pp raft rest_em star best_of_n bond dpo ipo simpo cpo orpo kto bco
    online_dpo xpo nash_md spin self_rewarding sft distill reward_model"""
  assert set(promised.split()) <= names


# ------------------------------------------------------------ the file
@each
def test_docstring_says_what_and_cites_the_paper(folder, name):
  doc = ast.get_docstring(ast.parse(source(folder, name))) or ""
  first = doc.splitlines()[0]
  assert 20 < len(first) <= 80 and first.endswith("."), first
  # "Reference: Title, arXiv 2402.03300."
  cited = re.search(r"Reference:\s.+?,\s+arXiv\s+\d{4}\.\d{4,5}", doc, re.S)
  assert cited or name in NO_PAPER, doc
  assert "=" in doc, "the equation"
  if folder == "methods":
    assert "Differs from the paper:" in doc


@each
def test_file_is_short(folder, name):
  text = source(folder, name)
  docs = set()
  for node in ast.walk(ast.parse(text)):
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
      docs |= set(range(node.lineno, (node.end_lineno or 0) + 1))
  quiet = (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT,
           tokenize.DEDENT, tokenize.ENDMARKER)  # fmt: skip
  lines = {
    token.start[0]
    for token in tokenize.generate_tokens(io.StringIO(text).readline)
    if token.type not in quiet
  }
  assert len(lines - docs) <= FOLDERS[folder]


@each
def test_file_has_make_and_no_state_of_its_own(folder, name):
  tree = ast.parse(source(folder, name))
  functions = {n.name for n in tree.body if isinstance(n, ast.FunctionDef)}
  assert "make" in functions
  assert not any(isinstance(n, ast.Global) for n in ast.walk(tree))
  module = importlib.import_module(f"rlreward.{folder}.{name}")
  assert registry.algorithm(name) is module
  assert ast.get_docstring(
    next(n for n in tree.body if getattr(n, "name", "") == "make")
  )


# ------------------------------------------------------------ the method
@each
def test_making_and_tracing_allocate_nothing(folder, name):
  before = len(jax.live_arrays())
  method, batch = made(name)
  held = len(jax.live_arrays())
  state = jax.eval_shape(method.init, jax.random.key(0))
  after, metrics = jax.eval_shape(method.step, state, batch, state.key)
  assert isinstance(method, Method) and isinstance(state, State)
  assert jax.tree.structure(after) == jax.tree.structure(state)
  assert metrics and all(
    isinstance(x, jax.ShapeDtypeStruct) for x in jax.tree.leaves(metrics)
  )
  assert len(jax.live_arrays()) <= held + 2  # the keys made above
  # `made` is cached and holds one batch.
  assert held - before <= len(jax.tree.leaves(batch)) + 2


@each
def test_same_key_gives_the_identical_state(folder, name):
  first, once, metrics = stepped(name)
  _, twice, again = stepped(name)
  assert same(once, twice) and same(metrics, again)
  other, _, _ = stepped(name, seed=1)
  assert not same(first.params, other.params)


@each
def test_structure_is_kept_and_frozen_untouched(folder, name):
  before, after, metrics = stepped(name)
  shape = lambda t: jax.tree.map(lambda x: (x.shape, x.dtype), t)
  assert jax.tree.structure(before) == jax.tree.structure(after)
  assert shape(before) == shape(after)
  assert same(before.frozen, after.frozen)
  assert same(before.key, after.key)  # the key of a step is folded in
  assert int(after.step) == int(before.step) + 1
  metrics = {k: v for k, v in metrics.items() if k != "rows"}
  assert same(before.params, after.params) == (name in UNTRAINED)
  assert all(np.isfinite(x).all() for x in jax.tree.leaves(metrics))


@each_way
def test_steps_can_be_scanned(folder, name):
  method, batch = made(name)
  init, step = compiled(name)

  def body(state, index):
    key = jax.random.fold_in(state.key, index)
    state, metrics = method.step(state, batch, key)
    return state, metrics["loss"]

  run = jax.jit(lambda s: jax.lax.scan(body, s, jnp.arange(3)))
  scanned, losses = run(init(jax.random.key(0)))
  assert losses.shape == (3,) and np.isfinite(losses).all()
  state = init(jax.random.key(0))
  for index in range(3):
    key = jax.random.fold_in(state.key, index)
    state, _ = step(state, batch, key)
  assert int(scanned.step) == 3
  # The same sums, compiled inside a loop: f32 roundings of steps of 1e-3.
  assert nano.gap(scanned.params, state.params) < 1e-5


@each_way
def test_parts_of_a_step_are_the_step(folder, name):
  method, batch = made(name)
  if method.phases is None:
    pytest.skip("a method without phases")
  init, step = compiled(name)
  state = init(jax.random.key(0))
  want, _ = step(state, batch, state.key)
  rollout = method.phases.sample(state, batch, state.key)
  score = method.phases.score(rollout, batch)
  got, _ = method.phases.update(state, rollout, score)
  assert nano.gap(got.params, want.params) < 1e-5


@each_way
def test_evaluation_leaves_the_state_alone(folder, name):
  method, task, _ = made_of(name, needed(name))
  state = compiled(name)[0](jax.random.key(0))
  batch = jax.tree.map(jnp.asarray, next(task.batches("test", nano.B, 0)))
  assert method.evaluate is not None or method.held is not None

  def found():
    out = {}
    if method.evaluate is not None:
      out |= method.evaluate(state, batch, jax.random.key(1), batch)["metrics"]
    if method.held is not None:
      rows = next(getattr(task, method.source)("test", nano.B, 0))
      out |= method.held(state, jax.tree.map(jnp.asarray, rows))
    return out

  for total, weight in found().values():
    assert np.isfinite(total) and weight >= 0
  assert same(found(), found())


@each_way
def test_an_adapter_obeys_the_same_laws(folder, name):
  # B starts at 0, so A moves in the second update: of a round, where each one
  # begins at the base.
  c = needed(
    name,
    epochs=1 + (name in FROM_BASE),
    model__lora_rank=2,
    optimizer__learning_rate=1e-2,
    optimizer__eps=1e-8,
  )
  method, _, batch = made_of(name, c)
  before = jax.jit(method.init)(jax.random.key(0))
  body = lambda state, _: method.step(state, batch, state.key)
  run = jax.jit(lambda s: jax.lax.scan(body, s, length=3))
  after, metrics = run(before)
  assert same(before.frozen, after.frozen) and "base" in before.frozen
  metrics.pop("rows", None)  # NaN for rows that are only compared with
  assert all(np.isfinite(x).all() for x in jax.tree.leaves(metrics))
  if name in UNTRAINED:
    return
  moved = jax.tree.map(
    lambda a, b: float(np.abs(a - b).max()), before.params, after.params
  )
  # At most one Adam step of 1e-2 per update; no part of the adapter is left.
  assert all(1e-4 < x < 0.1 for x in jax.tree.leaves(moved)), moved


# ------------------------------------------------------------ the config
@of_methods
def test_method_has_a_config_with_arms_a_claim_and_both_sizes(name):
  found = config.study(f"configs/{name}.py")
  assert len(found.arms) >= 2 and found.claim is not None
  assert all(isinstance(arm, Arm) for arm in found.arms)
  assert found.doc and (found.claim.__doc__ or "").strip()
  for size in ("mini", "pod"):
    config.check_complete(config.load(f"configs/{name}.py:{size}"))


@pytest.mark.parametrize("name", sorted(
  p.stem for p in (paths.REPO / "configs").glob("*.py")
  if p.stem != "common"))  # fmt: skip
def test_config_files_load_and_say_what_they_are(name):
  c = config.load(f"configs/{name}.py:mini")
  config.check_complete(c)
  found = config.study(name)
  assert found.doc.splitlines()[0].endswith(".")
  assert "rlreward train --config=" in found.doc
  assert re.search(r"\b(minutes?|seconds?)\b", found.doc), "how long it takes"
  assert registry.algorithm(str(c.algorithm))
  for arm in found.arms:
    config.replace(c, arm.overrides)
  if found.claim is not None:
    assert found.arms and (found.claim.__doc__ or "").strip()
  text = config.to_json(c)
  assert config.to_json(config.from_json(text)) == text


CONFIGS = sorted(
  file.stem
  for file in (paths.REPO / "configs").glob("*.py")
  if file.stem != "common"
)
of_configs = pytest.mark.parametrize("name", CONFIGS)


def presets(name):
  """PRESETS of a config, or the words that its get_config compares with."""
  path = paths.REPO / "configs" / f"{name}.py"
  words = {"mini", *runpy.run_path(str(path)).get("PRESETS", ())}
  for node in ast.walk(ast.parse(path.read_text())):
    if isinstance(node, ast.Compare) and ast.dump(node.left).count("'arg'"):
      known = [x for x in node.comparators if isinstance(x, ast.Constant)]
      words |= {x.value for x in known}  # others stand in PRESETS
  return sorted(words)


SIZES = [(name, size) for name in CONFIGS for size in presets(name)]


@pytest.mark.parametrize(("name", "size"), SIZES)
def test_every_size_names_fields_that_its_task_reads(name, size):
  c = config.load(f"configs/{name}.py:{size}")
  config.check_complete(c)
  fields = dict(config.flatten(c))
  assert fields["algorithm"] in [algorithm for _, algorithm in TABLE]
  task = registry.find(fields["task.name"], ("tasks",), "task.name")
  own = {n.removeprefix("task.") for n in fields if n.startswith("task.")}
  assert own <= {"name", *task.defaults()}


@of_configs
def test_the_commands_of_a_docstring_work(name):
  doc = config.study(name).doc
  specs = re.findall(r"--config=(configs/\w+\.py\S*)", doc)
  assert any(spec.startswith(f"configs/{name}.py") for spec in specs)
  for spec in specs:
    config.load(spec)
  if re.search(r"arXiv \d", doc):
    assert config.study(name).arms and config.study(name).claim


@of_configs
def test_a_claim_can_fail(name):
  found = config.study(name)
  if found.claim is None:
    pytest.skip("a config without a claim")

  class Still(dict):
    """A run in which every number is a half from first to last."""

    def __missing__(self, key):
      if key == "runs":
        return [Still()]
      if key == "evals":
        return {str(step): Still() for step in range(11)}
      return Still() if key in ("first", "last", "train") else 0.5

  assert not found.claim({arm.name: Still() for arm in found.arms})
  assert len({arm.name for arm in found.arms}) == len(found.arms)
