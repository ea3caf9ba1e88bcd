"""The order of imports, the flax fence, laziness and file sizes, by AST."""

import ast
import pathlib
import statistics
import subprocess
import sys
from collections.abc import Iterator

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "rlreward"
FILES = sorted(PACKAGE.rglob("*.py"))
IDS = [str(f.relative_to(PACKAGE)) for f in FILES]

# Left to right: a module imports only what is to its left, or its own part.
ORDER = (
  ("errors",),
  ("types", "fields"),
  ("configfile", "chain"),
  ("ops",),
  ("models", "analytic", "sharding", "config", "checkpoint", "metrics"),
  ("sampling",),
  ("rewards",),
  ("tasks",),
  ("evals",),
  ("steps",),
  ("algorithms",),
  ("methods",),
  ("held_rows",),
  ("reward_models",),
  ("model_rewards", "calibrate"),
  ("registry",),
  ("record", "attainable", "rm_report", "scoring", "stages"),
  ("train", "plan", "report", "doctor", "runs", "annotate", "audit"),
  ("claims", "cli_words", "papers", "adapters"),
  ("cli",),
  ("__main__",),
)
LEVEL = {name: i for i, part in enumerate(ORDER) for name in part}
# Paths of ops/ and analytic/ may name these and nothing else.
NUMERIC = {"jax", "numpy", "chex", "rlreward"}
HEAVY = {
  "array_record",
  "datasets",
  "grain",
  "huggingface_hub",
  "math_verify",
  "matplotlib",
  "orbax",
  "pyarrow",
  "rich",
  "sqlglot",
  "sqlite3",
  "sympy",
  "tensorboardX",
  "tensorflow",
  "tensorflow_datasets",
  "tokenizers",
  "torch",
  "tqdm",
  "transformers",
  "wandb",
}
SLACK_SECONDS = 0.2


def part_of(path: pathlib.Path) -> str:
  """The top-level part a file belongs to: "ops", "config", ..."""
  return path.relative_to(PACKAGE).with_suffix("").parts[0]


def parse(path: pathlib.Path) -> ast.Module:
  return ast.parse(path.read_text(encoding="utf-8"))


def imports(tree: ast.AST, path: pathlib.Path) -> Iterator[tuple[str, int]]:
  """(absolute dotted name, line) of each import below `tree`."""
  for node in ast.walk(tree):
    if isinstance(node, ast.Import):
      for alias in node.names:
        yield alias.name, node.lineno
    elif isinstance(node, ast.ImportFrom):
      base = node.module or ""
      if node.level:
        parts = path.relative_to(ROOT).with_suffix("").parts[: -node.level]
        base = ".".join([*parts, *([base] if base else [])])
      yield base, node.lineno
      for alias in node.names:
        yield f"{base}.{alias.name}", node.lineno


def at_module_level(tree: ast.Module) -> ast.Module:
  """The tree without function bodies and without `if TYPE_CHECKING`."""

  class Strip(ast.NodeTransformer):
    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
      return None

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> None:
      return None

    def visit_If(self, node: ast.If) -> ast.AST | None:
      if "TYPE_CHECKING" in ast.unparse(node.test):
        return None
      return self.generic_visit(node)

  return Strip().visit(tree)


def law_breakers(path: pathlib.Path, tree: ast.Module) -> list[str]:
  """Imports of ours that point to the right."""
  own, bad = part_of(path), []
  for name, line in imports(tree, path):
    pieces = name.split(".")
    if pieces[0] != "rlreward" or len(pieces) < 2:
      continue
    target = pieces[1]
    if target not in LEVEL or own in ("__init__", target):
      continue
    if LEVEL[target] >= LEVEL[own]:
      bad.append(f"line {line}: {own} imports {target}")
  return bad


def masked_products(tree: ast.Module) -> list[str]:
  """`x * mask` and `mask * x`: NaN * 0 is NaN."""

  def is_mask(node: ast.expr) -> bool:
    if isinstance(node, ast.Call):
      # mask.astype(x.dtype), jnp.asarray(mask), ...
      inner = [*node.args[:1]]
      if isinstance(node.func, ast.Attribute):
        inner.append(node.func.value)
      return any(is_mask(n) for n in inner)
    if isinstance(node, ast.Attribute):
      return is_mask_name(node.attr)
    if isinstance(node, ast.Subscript):
      return is_mask(node.value)
    return isinstance(node, ast.Name) and is_mask_name(node.id)

  def is_mask_name(name: str) -> bool:
    words = name.lower().split("_")
    return bool({"mask", "masks", "valid", "attend"} & set(words))

  bad = []
  for node in ast.walk(tree):
    if isinstance(node, ast.BinOp | ast.AugAssign):
      sides = (
        [node.left, node.right] if isinstance(node, ast.BinOp) else [node.value]
      )
      if isinstance(node.op, ast.Mult) and any(map(is_mask, sides)):
        bad.append(f"line {node.lineno}: {ast.unparse(node)}")
  return bad


@pytest.mark.parametrize("path", FILES, ids=IDS)
def test_every_part_has_a_place_in_the_order(path):
  assert part_of(path) in LEVEL or part_of(path) in ("__init__", "configs")


@pytest.mark.parametrize("path", FILES, ids=IDS)
def test_imports_point_left(path):
  assert law_breakers(path, parse(path)) == []


@pytest.mark.parametrize("path", FILES, ids=IDS)
def test_only_models_import_flax(path):
  found = {n for n, _ in imports(parse(path), path) if n.startswith("flax")}
  if part_of(path) != "models":
    assert not found
  assert not any(n.startswith(("flax.nnx", "flax.experimental")) for n in found)


@pytest.mark.parametrize("path", FILES, ids=IDS)
def test_heavy_libraries_load_inside_functions(path):
  found = imports(at_module_level(parse(path)), path)
  assert not [(n, line) for n, line in found if n.split(".")[0] in HEAVY]


@pytest.mark.parametrize("path", FILES, ids=IDS)
def test_mathematics_knows_arrays_only(path):
  if part_of(path) not in ("ops", "analytic"):
    return
  for name, line in imports(parse(path), path):
    root = name.split(".")[0]
    assert root in NUMERIC or root in sys.stdlib_module_names, (name, line)
    if root == "rlreward" and name.count("."):
      assert name.split(".")[1] in ("types", "errors", part_of(path)), name


@pytest.mark.parametrize("path", FILES, ids=IDS)
def test_methods_never_import_each_other(path):
  if part_of(path) in ("methods", "algorithms") and path.stem != "__init__":
    for name, line in imports(parse(path), path):
      pieces = name.split(".")
      if pieces[:2] == ["rlreward", part_of(path)] and len(pieces) > 2:
        assert pieces[2] == path.stem or part_of(path) != "methods", line


@pytest.mark.parametrize("path", FILES, ids=IDS)
def test_files_are_short(path):
  lines = path.read_text(encoding="utf-8").count("\n")
  assert lines <= 400, f"{lines} lines: move a part of it left"
  if part_of(path) == "methods":
    assert lines <= 120, f"{lines} lines: a method is a choice, not a program"


@pytest.mark.parametrize("path", FILES, ids=IDS)
def test_losses_never_multiply_by_a_mask(path):
  if part_of(path) == "ops":
    assert masked_products(parse(path)) == []


@pytest.mark.parametrize("path", FILES, ids=IDS)
def test_no_old_sharding_and_no_shims(path):
  tree = parse(path)
  names = {n for n, _ in imports(tree, path)}
  assert not {n for n in names if "pjit" in n or "experimental.shard_map" in n}
  calls = [
    node.lineno
    for node in ast.walk(tree)
    if isinstance(node, ast.Call)
    and isinstance(node.func, ast.Name)
    and node.func.id == "hasattr"
  ]
  assert not calls
  if path.name != "sharding.py":
    assert "jax.make_mesh" not in path.read_text(encoding="utf-8")


def test_these_checks_can_fail():
  path = PACKAGE / "ops" / "example.py"
  tree = ast.parse("from rlreward.steps import online\nfrom .. import config")
  assert law_breakers(path, tree) == [
    "line 1: ops imports steps",
    "line 1: ops imports steps",
    "line 2: ops imports config",
  ]
  source = "a = x * mask\nb = loss_mask.astype(f) * y\nc = n * scale\nd *= mask"
  assert len(masked_products(ast.parse(source))) == 3
  lazy = (
    "import orbax\ndef f():\n  import torch\nif TYPE_CHECKING:\n  import rich"
  )
  left = [n for n, _ in imports(at_module_level(ast.parse(lazy)), path)]
  assert left == ["orbax"]


def test_the_package_adds_little_to_the_import_of_jax():
  code = (
    "import time, jax, jax.numpy, numpy\n"
    "start = time.perf_counter()\n"
    "import rlreward, rlreward.types\n"
    "print(time.perf_counter() - start)\n"
    "import sys\n"
    f"print(sorted(set(sys.modules) & {HEAVY!r}))\n"
  )
  times = []
  for _ in range(3):
    done = subprocess.run(
      [sys.executable, "-c", code],
      capture_output=True,
      text=True,
      check=True,
      cwd=ROOT,
    )
    seconds, heavy = done.stdout.splitlines()
    assert heavy == "[]"
    times.append(float(seconds))
  assert statistics.median(times) < SLACK_SECONDS, times
