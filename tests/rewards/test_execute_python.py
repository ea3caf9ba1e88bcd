"""Programs against tests: HumanEval, escapes, levels, and no leaks."""

import gzip
import http.server
import json
import os
import pathlib
import re
import stat
import sys
import threading

import pytest
from paths import shared_data

from rlreward import audit
from rlreward.errors import UserError
from rlreward.evals import fixtures
from rlreward.rewards import execute, remote, sandbox, values
from rlreward.rewards.sandbox import Job, Level

HERE = pathlib.Path(__file__).resolve().parent
FIXTURES = pathlib.Path(execute.__file__).parent / "fixtures" / "python.jsonl"
LEVEL = Level("rlimit", seconds=60)
TWICE = "def check(candidate):\n  assert candidate(3) == 6\n"
ESCAPES = [
  json.loads(line)
  for line in (HERE / "escapes_python.jsonl").read_text().splitlines()
]


@pytest.fixture(scope="module")
def guards():
  found = sandbox.guards()
  assert found["limits"]
  return found


@pytest.fixture(scope="module")
def problems():
  path = shared_data("code_problems") / "HumanEval.jsonl.gz"
  with gzip.open(path, "rt") as file:
    return [json.loads(line) for line in file]


def outcome(source, test=TWICE, entry="f", level=LEVEL, prompt=""):
  return sandbox.run(Job(source, entry, test, prompt), level)


def test_programs_are_judged(guards):
  assert outcome("def f(x):\n  return 2 * x").status == "ok"
  assert outcome("def f(x):\n  return 3 * x").status == "wrong"
  assert outcome("def f(x) return").status == "wrong"
  assert outcome("g = 1").status == "wrong"
  assert outcome("def f(x):\n  return object()").status == "wrong"
  late = outcome(
    "def f(x):\n  while True: pass", level=LEVEL._replace(seconds=1)
  )
  assert late.status == "timeout"
  # What is wrong with the tests is no fault of the program.
  good = "def f(x):\n  return 2 * x"
  assert outcome(good, "assert nothing").status == "error"
  assert outcome(good, "def check(c):\n  pass").status == "error"
  assert outcome(good, "assert f(x=3) == 6").status == "ok"


def test_values_travel_unchanged():
  data = [None, True, 1, -(2**70), 0.1, float("inf"), 1j, "ü\ud800", b"\x00",
          (1, (2,)), [1, [2]], {1: {2}}, frozenset({3}), range(3)]  # fmt: skip
  test = f"inf = float('inf')\nfor x in {data!r}:\n  y = f(x)\n"
  test += "  assert y == x and type(y) is type(x), (x, y)\n"
  assert outcome("def f(x):\n  return x", test).status == "ok"


@pytest.mark.parametrize("count", [len(ESCAPES)])
def test_escapes_fail(guards, tmp_path, count):
  assert count >= 50
  held = guards["files"] and guards["processes"]
  own = [e for e in ESCAPES if held or "2 * x" not in e["source"]]
  level = Level("rlimit", seconds=4)
  jobs = [Job(e["source"], "f", TWICE) for e in own]
  out = sandbox.run_all(jobs, level, workers=3)
  passed = [
    e["name"] for e, o in zip(own, out, strict=True) if o.status == "ok"
  ]
  assert passed == []
  # Nor can a program choose to be left out, but by using up its time.
  errors = [
    (e["name"], o.detail)
    for e, o in zip(own, out, strict=True)
    if o.status == "error"
  ]
  assert errors == []
  for place in (pathlib.Path("/tmp"), pathlib.Path.cwd(), tmp_path,
                pathlib.Path("/dev/shm")):  # fmt: skip
    assert not (place / "pwned").exists()


def test_a_hostile_program_fails_where_its_honest_twin_passes(guards):
  twin = "def f(x):\n  import math, threading, hashlib\n  return 2 * x"
  assert outcome(twin).status == "ok"


def test_nothing_leaks(guards):
  before = len(os.listdir("/proc/self/fd"))
  children = pathlib.Path(f"/proc/self/task/{os.getpid()}/children")
  level = Level("rlimit", seconds=2)
  sources = ["return 2 * x", "import os; os._exit(1)", "raise ValueError"]
  jobs = [Job(f"def f(x):\n  {s}", "f", TWICE) for s in sources * 8]
  jobs.append(Job("import time; time.sleep(100)", "f", TWICE))
  sandbox.run_all(jobs, level, workers=2)
  assert len(os.listdir("/proc/self/fd")) == before
  assert not children.exists() or not [
    p for p in children.read_text().split()
    if "sandbox" in pathlib.Path(f"/proc/{p}/cmdline").read_text()
  ]  # fmt: skip


def test_the_environment_is_empty_and_the_folder_too(guards, monkeypatch):
  monkeypatch.setenv("RLREWARD_SECRET", "1")
  source = "import os, sys\nENV = dict(os.environ)\ndef f():\n  return ENV"
  assert outcome(source, "assert not set(f()) - {'LC_CTYPE'}").status == "ok"


def mutants(solution):
  """Programs that should fail: each changes one thing."""
  yield "    return None\n"
  changes = [(" + ", " - "), (" == ", " != "), (" < ", " >= "),
             (" > ", " <= "), ("True", "False"), ("return ", "return not "),
             (" 1", " 2")]  # fmt: skip
  for old, new in changes:
    if old in solution:
      yield solution.replace(old, new)


def human_eval(problems, workers=2):
  right = [Job(p["prompt"] + p["canonical_solution"], p["entry_point"],
               p["test"], p["prompt"]) for p in problems]  # fmt: skip
  out = sandbox.run_all(right, LEVEL, workers)
  bad = [
    (p["task_id"], o.status, o.detail)
    for p, o in zip(problems, out, strict=True)
    if o.status != "ok"
  ]
  assert bad == []
  wrong = [
    Job(p["prompt"] + m, p["entry_point"], p["test"], p["prompt"])
    for p in problems
    for m in list(mutants(p["canonical_solution"]))[:2]
  ]
  level = LEVEL._replace(seconds=10)
  found = sandbox.run_all(wrong, level, workers)
  nothing = [o for j, o in zip(wrong, found, strict=True)
             if j.source.endswith("\n    return None\n")]  # fmt: skip
  assert not [o for o in nothing if o.status not in ("wrong", "timeout")]
  passed = sum(o.status == "ok" for o in found)
  assert not [o for o in found if o.status == "error"]
  return passed, len(found)


def test_canonical_solutions_pass_and_mutants_fail(guards, problems):
  some = [p for i, p in enumerate(problems) if i % 16 == 0 or i in (32, 38, 50)]
  passed, total = human_eval(some)
  assert passed <= 0.1 * total


@pytest.mark.slow
def test_all_164_problems(guards, problems):
  assert len(problems) == 164
  passed, total = human_eval(problems)
  # A mutant may be the same function (x > 0 for x >= 1 over integers).
  assert passed <= 0.1 * total, (passed, total)


def test_the_published_pass_at_1_of_the_example(guards):
  folder = shared_data("code_problems")
  problem = [json.loads((folder / "example_problem.jsonl").read_text())]
  lines = (folder / "example_samples.jsonl").read_text().splitlines()
  samples = [(r["task_id"], r["completion"]) for r in map(json.loads, lines)]
  level = Level("rlimit", seconds=5)
  found, out = execute.pass_at_k(problem, samples, [1, 100], level)
  # openai/human-eval prints 0.4999999999999999; f32 here.
  assert found == {1: pytest.approx(0.5, abs=1e-6)}
  assert [o.status == "ok" for o in out] == [False] * 3 + [True] * 3
  with pytest.raises(UserError, match="test/1"):
    execute.pass_at_k(problem, [("test/1", "")], [1], level)


def rows():
  found, _ = fixtures.read(FIXTURES)
  return found


def score(reward, some):
  columns = lambda name: [r.row.columns[name] for r in some]
  return reward(
    [r.row.prompt for r in some],
    [r.row.completion for r in some],
    columns("test"),
    columns("entry_point"),
  )


def test_the_fixtures_are_judged_as_labelled(guards):
  some = rows()
  assert len(some) >= 60
  reward = execute.python_reward("rlimit", seconds=5)
  for fixture, value in zip(some, score(reward, some), strict=True):
    if isinstance(value, values.Unjudged):
      assert "endless" in fixture.tags and value.status == values.TIMEOUT
    else:
      assert value == fixture.label, (fixture.line, fixture.row.completion)
  late = execute.python_reward("rlimit", seconds=1, late=0.0)
  assert score(late, [r for r in some if "endless" in r.tags]) == [0.0]


@pytest.mark.slow
def test_it_passes_its_own_audit(guards):
  report = audit.run("rlreward.rewards.execute:python_rlimit", FIXTURES)
  assert report["passed"], audit.text(report)


def test_levels_are_checked_and_off_is_the_default(monkeypatch, caplog):
  some = rows()[:1]
  with pytest.raises(UserError, match="is off"):
    score(execute.python, some)
  for level in (Level("best"), Level("rlimit", seconds=0),
                Level("rlimit", memory_mb=1), Level("remote"),
                Level("remote", url="file:///etc/passwd"),
                Level("container", engine="sh"),
                Level("container", image="")):  # fmt: skip
    with pytest.raises(UserError):
      sandbox.check(level)
  monkeypatch.setenv("PATH", "/nowhere")
  with pytest.raises(UserError, match="not installed"):
    sandbox.check(Level("container"))
  sandbox.check(LEVEL)
  assert "level rlimit" in caplog.text


def test_the_container_command_gives_nothing_away():
  argv = sandbox.container_argv(Level("container", memory_mb=256), "n")
  head = argv[: argv.index("python3")]
  assert head[:3] == ["docker", "run", "--rm"]
  assert head[-1] == "python:3.12-slim"
  for flag in ("--network=none", "--read-only", "--cap-drop=ALL",
               "--security-opt=no-new-privileges", "--user=65534:65534",
               "--pids-limit=64", "--memory=256m", "--memory-swap=256m",
               "--pull=never", "--interactive"):  # fmt: skip
    assert flag in head
  assert not [
    a for a in head if re.match(r"(-v|--volume|--mount|-e|--env=)", a)
  ]


def test_a_container_is_driven_like_a_process(tmp_path, monkeypatch, guards):
  log = tmp_path / "log"
  fake = tmp_path / "podman"
  # Runs the command behind the image; writes down how it was called.
  fake.write_text(
    f'#!/bin/sh\necho "$1 $2" >> {log}\n[ "$1" = rm ] && exit 0\n'
    'while [ "$1" != python3 ]; do shift; done\nshift\n'
    f'exec {sys.executable} "$@"\n'
  )
  fake.chmod(fake.stat().st_mode | stat.S_IEXEC)
  monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
  level = sandbox.check(Level("container", seconds=60, engine="podman"))
  assert outcome("def f(x):\n  return 2 * x", level=level).status == "ok"
  assert outcome("def f(x):\n  return 3 * x", level=level).status == "wrong"
  assert log.read_text().split()[::2] == ["run", "rm"] * 2


def test_a_remote_service_is_asked_only_where_it_is_named(monkeypatch):
  asked = []

  class Service(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
      size = int(self.headers["Content-Length"])
      asked.append(json.loads(self.rfile.read(size)))
      if "redirect" in self.path:
        self.send_response(302)
        self.send_header("Location", "/other")
        self.end_headers()
        return
      status = "ok" if "2 * x" in asked[-1]["source"] else "strange"
      self.send_response(200)
      self.end_headers()
      self.wfile.write(json.dumps({"status": status}).encode())

    def log_message(self, *args):
      del args

  monkeypatch.delenv("RLREWARD_OFFLINE", raising=False)
  server = http.server.HTTPServer(("127.0.0.1", 0), Service)
  threading.Thread(target=server.serve_forever, daemon=True).start()
  url = f"http://127.0.0.1:{server.server_port}/run"
  level = Level("remote", seconds=20, url=url)
  try:
    assert outcome("def f(x):\n  return 2 * x", level=level).status == "ok"
    assert outcome("nothing", level=level).status == "error"
    there = level._replace(url=url + "/redirect")
    assert outcome("nothing", level=there).status == "error"
  finally:
    server.shutdown()
    server.server_close()
  assert asked[0]["entry"] == "f" and len(asked) == 3
  assert outcome("x", level=level).status == "error"
  monkeypatch.setenv("RLREWARD_OFFLINE", "1")
  with pytest.raises(UserError, match="OFFLINE"):
    remote.check_url(url)


def test_extraction_is_strict():
  e = execute.extract
  assert e("```python\nx\n```", "python") == "x\n"
  assert e("<answer>x</answer>", "python") == "x"
  assert e("<answer>```\nx\n```</answer>", "python") == "x\n"
  assert e(" x", "python") == " x"
  assert e("```\na\n```\n```\nb\n```", "python") is None
  assert e("```java\na\n```", "python") is None
  assert e("<answer>a</answer><answer>b</answer>", "python") is None
  assert e("</answer>a<answer>", "python") is None
