"""A run directory as one page, from directories written by hand."""

import html.parser
import json
import math
import re
import shlex

import jax
import paths
import pytest

from rlreward import cli, config, errors, fields
from rlreward.report import (
  attained,
  facts,
  figures,
  page,
  plot,
  read,
  samples,
  stats,
  verdict,
)
from rlreward.steps import roles

HOSTILE = (
  "</script><img src=http://e.vil/x onerror=alert(1)>\u202egnp.exe\x1b[2J"
)
VOID = {"meta", "link", "br", "img", "input", "hr"}


# ------------------------------------------------------------ writing runs
def write_run(
  folder, *, rows=(), evals=(), answers=None, curve=None, **changes
):
  """A run directory: rows and evals are (step, {metric: value})."""
  folder.mkdir(parents=True, exist_ok=True)
  changes = {k.replace("__", "."): v for k, v in changes.items()}
  tree = config.replace(config.load("grpo"), changes)
  (folder / "config.json").write_text(config.to_json(tree))
  lines = [
    {"step": s, "time": 1.7e9 + s, **{f"eval/{k}": v for k, v in row.items()}}
    for s, row in evals
  ]
  lines += [{"step": s, "time": 1.7e9 + s, **row} for s, row in rows]
  if lines:
    lines.sort(key=lambda line: line["step"])
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (folder / "metrics.jsonl").write_text(text)
  for name, found in (answers or {}).items():
    (folder / "samples").mkdir(exist_ok=True)
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in found)
    (folder / "samples" / f"{name}.jsonl").write_text(text, encoding="utf-8")
  if curve is not None:
    (folder / "frontier").mkdir(exist_ok=True)
    (folder / "frontier" / "curve.json").write_text(json.dumps(curve))
  return folder


def answer(prompt, text, reward, **more):
  return {
    "group": 0, "prompt": prompt, "completion": text, "reward": reward,
    "valid": reward is not None, "reward/correct": reward, "length": 2,
    "finish": "stop", "logp": [-0.5, -0.25], "prompt_ids": [1],
    "completion_ids": [2, 1], **more,
  }  # fmt: skip


def training(step, steps=20, **more):
  """A step of a healthy GRPO run."""
  share = step / steps
  return {
    "reward": 0.3 + 0.5 * share, "reward/correct": 0.3 + 0.5 * share,
    "reward/format": 1.0, "reward_std": 0.4, "group_collapse": 0.2,
    "kl": 0.1 * share, "kl_sequence": share, "length": 4.0, "truncated": 0.01,
    "loss": 1e-9, "grad_norm": 1.0, "clip_fraction": 0.0, "approx_kl": 0.0,
    "logprob_abs_diff": 1e-7, "logprob_abs_diff_max": 3e-6, "valid": 1.0,
    "rollout_tokens_per_second": 1e4, "train_tokens_per_second": 2e4,
    "seconds/sample": 0.1, "seconds/step": 0.3, "seconds/update": 0.2,
    "compiles/sample": 1.0, "compile_seconds/sample": 1.5, "ratio": 1.0,
    "staleness": 0.0, "own_metric": share, **more,
  }  # fmt: skip


def before_after():
  """The same 8 prompts: half right, then all but one."""
  old = [answer(f"{i}+1=", "9", float(i % 2)) for i in range(8)]
  new = [answer(f"{i}+1=", str(i + 1), float(i != 3)) for i in range(8)]
  return {"eval_0": old, "eval_20": new, "step_10": old, "step_20": new}


def grpo(folder, **more):
  rows = [(s, training(s)) for s in range(1, 21)]
  both = {"length": 4.0, "truncated": 0.0}
  evals = [
    (0, {"reward": 0.5, "kl": -1e-8, **both}),
    (20, {"reward": 0.875, "kl": 0.9, **both}),
  ]
  made = {"rows": rows, "evals": evals, "answers": before_after(), "steps": 20}
  return write_run(folder, **{**made, **more})


def offline(folder, algorithm, **parts):
  every = {"grad_norm": 1.0, "train_tokens_per_second": 9.0}
  rows = [
    (s, {"loss": 1 / s, **every, **{k: v + s / 99 for k, v in parts.items()}})
    for s in range(1, 13)
  ]
  held = {f"held/{k}": v for k, v in parts.items()}
  evals = [(s, {"held/loss": 1.1 / (s + 1), **held}) for s in (0, 12)]
  return write_run(
    folder, rows=rows, evals=evals, algorithm=algorithm, steps=12
  )


def curve(exact=False, points=40):
  kl = [0.05 * i for i in range(points)]
  best = [0.5 + 0.5 * (1 - math.exp(-2 * x)) for x in kl]
  return {
    "exact": exact, "prompts": 8, "samples": 64,
    "base": {"reward": 0.5, "gold": None}, "kl": kl, "reward": best,
    "low": [x - 0.02 for x in best], "high": [x + 0.02 for x in best],
    "ess": [64.0] * points, "trusted": [exact or x < 1.0 for x in kl],
    "bon": {"n": [1, 2, 4], "kl": [0.0, 0.19, 0.64],
            "reward": [0.5, 0.7, 0.8], "gold": None},
  }  # fmt: skip


class Page(html.parser.HTMLParser):
  """Checks that a page is well formed and notes what it would load."""

  def __init__(self, text):
    super().__init__()
    self.open, self.seen, self.loads, self.links, self.ids = [], [], [], [], []
    self.bad, self.words = [], []
    self.feed(text)
    self.close()

  def handle_starttag(self, tag, attrs):
    self._note(tag, dict(attrs))
    if tag not in VOID:
      self.open.append(tag)

  def handle_startendtag(self, tag, attrs):
    self._note(tag, dict(attrs))

  def handle_endtag(self, tag):
    if not self.open or self.open.pop() != tag:
      self.bad.append((tag, self.getpos()))

  def handle_data(self, data):
    if self.open and self.open[-1] != "style":
      self.words.append(data)

  def _note(self, tag, attrs):
    self.seen.append((tag, attrs))
    self.loads += [
      v for k, v in attrs.items() if k in ("src", "data", "srcset")
    ]
    self.links += [v for k, v in attrs.items() if k in ("href", "xlink:href")]
    self.ids += [v for k, v in attrs.items() if k == "id"]
    self.bad += [(tag, k) for k in attrs if k.startswith("on")]


def checked(folder, **how):
  """Writes the page of a run and returns what the parser saw, and the text."""
  out = page.write(folder, **how)
  text = out.read_text("utf-8")
  found = Page(text)
  assert not found.bad and not found.open
  assert not found.loads and "http" not in text.replace("http-equiv", "")
  assert not any(re.match(r"[a-z]+:|//", link) for link in found.links)
  assert "@import" not in text and "url(" not in text
  tags = {tag for tag, _ in found.seen}
  assert not tags & {"script", "link", "iframe", "object", "embed", "img"}
  assert len(found.ids) == len(set(found.ids))
  plots = [a for t, a in found.seen if t == "svg" and "plot" in a["class"]]
  assert all(a["role"] == "img" and a["aria-label"] for a in plots)
  assert all("scope" in a for t, a in found.seen if t == "th")
  curves = text[text.index('id="look"') : text.index('id="config"')]
  assert "None" not in curves and "nan" not in text
  assert not list(out.parent.glob("*.partial"))
  return " ".join(" ".join(found.words).split()), text


# ------------------------------------------------------------ each kind of run
def test_an_online_run(tmp_path):
  words, text = checked(grpo(tmp_path / "a"))
  assert "grpo on arithmetic: a" in words and "20 of 20 (finished)" in words
  assert "8 prompts x 8 samples = 64 rows = 1 update x 64" in words
  for title in ("Reward components", "Group collapse", "Ratio error",
                "Clipped actions", "Finish reasons", "Entropy", "Truncation",
                "Gradient norm", "Speed", "own_metric"):  # fmt: skip
    assert title in words, title
  assert words.count("healthy:") > 15
  assert "--config.frontier.samples=64" in words
  assert "Most improved" in words and "Most worsened" in words
  assert "loss.kl_beta" in text.replace("<code>", "") or "kl_beta" in words
  assert "color-scheme: dark" in text and "max-width:640px" in text


@pytest.mark.parametrize(
  "algorithm, parts, title",
  [
    ("sft", {"nll": 0.9}, "NLL"),
    ("dpo", {"accuracy": 0.6, "chosen_reward": 0.1, "rejected_reward": 0.0},
     "Implicit rewards of a pair"),
    ("reward_model", {"accuracy": 0.6, "score_mean": 0.0},
     "Pairs in the right order"),
  ],
)  # fmt: skip
def test_an_offline_run(tmp_path, algorithm, parts, title):
  words, _ = checked(offline(tmp_path / "a", algorithm, **parts))
  assert title in words and "held-out loss" in words
  assert "Group collapse" not in words and "No samples were recorded" in words
  assert "8 rows per update" in words


def test_best_of_n_chooses_and_is_not_blamed_for_not_learning(tmp_path):
  rows = [
    (s, {"reward": 0.2, "group_collapse": 0.9, "chosen/reward": 0.8,
         "best_of/1": 0.2, "best_of/2": 0.4, "best_of/8": 0.8})
    for s in (1, 2)
  ]  # fmt: skip
  answers = {"chosen_2": [answer("1+1=", "2", 1.0, chosen=1.0)]}
  folder = write_run(tmp_path / "a", rows=rows, answers=answers, steps=2,
                     evals=[(0, {"reward": 0.2}), (2, {"reward": 0.2})],
                     algorithm="best_of_n")  # fmt: skip
  words, _ = checked(folder)
  assert "best of 8" in words and "Chosen answers of step 2" in words
  found = {f.name for f in verdict.findings(read.run(folder))}
  assert "group collapse" not in found and "held-out reward" not in found


def test_an_unfinished_run_with_one_evaluation(tmp_path):
  folder = grpo(tmp_path / "a", rows=[], evals=[(0, {"reward": 0.5})])
  words, _ = checked(folder)
  assert "0 of 20 (not finished)" in words


def test_a_first_stage_is_shown_beside_or_alone(tmp_path):
  folder = grpo(tmp_path / "a")
  offline(folder / "start", "sft", nll=0.5)
  words, _ = checked(folder)
  assert "Stage 1: sft" in words and "2: sft for 12 steps, then" in words
  (folder / "metrics.jsonl").unlink()
  words, _ = checked(folder)
  assert "what trained before it is below" in words and "0 of 20" in words
  offline(folder / "start" / "start", "dpo", nll=0.5)
  words, _ = checked(folder)
  assert "Stage 1: dpo" in words and "Stage 2: sft" in words
  assert "3: dpo for 12 steps, sft for 12 steps, then" in words


def test_a_task_of_tokens_and_a_task_of_text(tmp_path):
  ids = {f"eval_{s}": [answer("3 5", "7 1", 1.0 * s)] for s in (0, 20)}
  assert "3 5" in checked(grpo(tmp_path / "a", answers=ids))[0]
  long = {"eval_20": [answer("Tell me.", "word " * 4000, 0.5)]}
  words, _ = checked(grpo(tmp_path / "b", answers=long))
  assert "18800 characters left out" in words


def test_comparison_draws_each_run_and_names_what_differs(tmp_path):
  a, b = grpo(tmp_path / "x" / "a"), grpo(tmp_path / "y" / "a", seed=7)
  words, text = checked(a, compare=[b], out=tmp_path / "both.html")
  assert "Compared with y/a" in words
  row = re.search(r"<code>seed</code></th><td>(\d)</td><td>(\d)</td>", text)
  assert row and row.groups() == ("0", "7")
  assert 'href="x/a/metrics.jsonl"' in text


@pytest.mark.parametrize(
  "changes", [{}, {"tied": True}, {"qkv_bias": True, "qk_norm": True},
              {"outputs": 3, "kv_heads": 1}],
)  # fmt: skip
def test_the_parameters_are_those_of_the_model(tmp_path, changes):
  changes = {f"model__{k}": v for k, v in changes.items()}
  run = read.run(grpo(tmp_path / "a", **changes))
  text = (run.path / "config.json").read_text()
  actor = roles.policy(config.from_json(text).model)
  tree = jax.eval_shape(actor.init, jax.random.key(0))
  assert page.parameters(run) == sum(x.size for x in jax.tree.leaves(tree))
  assert "parameters, 2 layers" in dict(page.facts(run))["model"]


# ------------------------------------------------------------ hostile content
def test_hostile_text_is_shown_and_does_nothing(tmp_path):
  rows = [answer(HOSTILE, HOSTILE, 1.0, **{f"reward/{HOSTILE}": 1.0})]
  folder = grpo(tmp_path / "a", answers={"eval_0": rows, "eval_20": rows})
  out = page.write(folder)
  text = out.read_text("utf-8")
  found = Page(text)
  assert not found.bad and not found.loads
  assert "&lt;/script&gt;" in text and "<img" not in text
  assert "\u202e" not in text and "\x1b" not in text
  assert "[U+202E]gnp.exe[U+001B]" in text
  # Words of other alphabets, right to left among them, stay as they are.
  assert samples.tame("שלום naïve 你好\n\t") == "שלום naïve 你好\n\t"
  assert samples.tame("\ud800") == "[U+D800]"


def test_hostile_names_of_metrics_and_runs_are_escaped(tmp_path):
  rows = [(s, training(s, **{"<b>&": 1.0 * s})) for s in range(1, 5)]
  folder = grpo(tmp_path / "<i>", rows=rows)
  words, text = checked(folder)
  assert "<b>&" in words and "<b>&<" not in text and "<i>" not in text


# ------------------------------------------------------------ broken files
def test_a_line_cut_by_a_kill_is_left_out(tmp_path):
  folder = grpo(tmp_path / "a")
  with (folder / "metrics.jsonl").open("a") as file:
    file.write('[1]\n{"step": 21, "rewa')
  with (folder / "samples" / "eval_20.jsonl").open("ab") as file:
    file.write(b'{"prompt": "\xff')
  words, _ = checked(folder)
  assert "2 lines of metrics.jsonl that cannot be read" in words
  assert read.run(folder).done() == 20


def test_numbers_that_are_not_finite_leave_gaps(tmp_path):
  rows = [(s, training(s, kl=None if s == 8 else 0.1)) for s in range(1, 21)]
  rows[3] = (4, training(4, kl=math.nan))  # Python's JSON writes NaN
  run = read.run(grpo(tmp_path / "a", rows=rows))
  points = run.series("kl")
  assert [s for s, v in points if v is None] == [4, 8]
  x, y = [s for s, _ in points], [v for _, v in points]
  svg = plot.curves([plot.Series("kl", x, y)], alt="KL")
  assert svg.count('<path class="line c0"') == 3
  assert "numbers that are not finite" in checked(run.path)[0]
  lone = plot.curves([plot.Series("kl", [1, 2, 3], [1, None, 2])], alt="KL")
  assert lone.count("<circle") == 2


@pytest.mark.parametrize("broken", ["", "[]", "{", '{"kl": [1], "reward": []}'])
def test_a_frontier_that_cannot_be_read_is_absent(tmp_path, broken):
  folder = grpo(tmp_path / "a", curve={})
  (folder / "frontier" / "curve.json").write_text(broken)
  assert "--config.frontier.samples=64" in checked(folder)[0]


def test_bad_input_is_three_lines(tmp_path):
  with pytest.raises(errors.UserError, match="holds no run"):
    page.write(tmp_path)
  empty = write_run(tmp_path / "empty")
  with pytest.raises(errors.UserError, match="no metrics yet"):
    page.write(empty)
  (empty / "metrics.jsonl").write_text('{"step": 0')
  with pytest.raises(errors.UserError, match="no metrics yet"):
    page.write(empty)
  good = grpo(tmp_path / "good")
  with pytest.raises(errors.UserError, match="cannot be written"):
    page.write(good, tmp_path)
  with pytest.raises(errors.UserError, match="holds no run"):
    page.write(good, compare=[tmp_path])
  (good / "config.json").write_text("[1]")
  with pytest.raises(errors.UserError, match="not a JSON object"):
    page.write(good)


# ------------------------------------------------------------ the verb
def test_the_verb_says_where_it_wrote(tmp_path, capsys):
  a, b = grpo(tmp_path / "a"), grpo(tmp_path / "b")
  assert cli.main(["report", str(a)]) == 0
  assert f"wrote {a / 'report.html'} (" in capsys.readouterr().out
  out = tmp_path / "pages" / "a.html"
  words = shlex.split(f"report {a} --out={out} --compare {b} {b}")
  assert cli.main(words) == 0 and out.is_file()
  assert cli.main(["report", str(tmp_path)]) == 2
  assert len(capsys.readouterr().err.strip().splitlines()) == 3
  with pytest.raises(SystemExit):
    cli.main(["report", "--help"])
  assert "--compare" in capsys.readouterr().out


# ------------------------------------------------------------ size
def test_ten_thousand_steps_stay_small_and_keep_their_spike(tmp_path):
  steps = 10_000
  rows = [
    (
      s,
      training(s, steps, **{f"extra_{i}": math.sin(s * i) for i in range(20)}),
    )
    for s in range(1, steps + 1)
  ]
  rows[4999][1]["grad_norm"] = 55.0
  held = [
    (s, {"reward": 0.5, "kl": s / steps}) for s in range(0, steps + 1, 50)
  ]
  text = "x" * 4000
  answers = {f"eval_{s}": [answer(str(i), text, i / 64) for i in range(64)]
             for s in (0, steps)}  # fmt: skip
  folder = grpo(tmp_path / "a", rows=rows, evals=held, answers=answers,
                curve=curve(), steps=steps)  # fmt: skip
  _, page_text = checked(folder)
  assert len(page_text.encode()) < 3e6
  assert "highest 55" in page_text
  found = next(f for f in verdict.findings(read.run(folder))
               if f.name == "gradient spikes")  # fmt: skip
  assert found.look and "55" in found.said
  norms = [row["grad_norm"] for _, row in rows]
  line = plot.thinned(plot.Series("", [s for s, _ in rows], norms))
  assert len(line.x) == plot.MOST and line.x[-1] == steps
  assert line.high is not None and max(v or 0.0 for v in line.high) == 55.0


# ------------------------------------------------------------ frontier
def test_the_frontier_shows_optimum_best_of_n_and_the_path(tmp_path):
  evals = [
    (0, {"reward": 0.5, "proxy": 0.5, "kl": 0.0, "kl_wasted": 0.0}),
    (20, {"reward": 0.6, "proxy": 0.8, "kl": 0.9, "efficiency": 0.72,
          "efficiency_low": 0.7, "efficiency_high": 0.75, "kl_wasted": 0.44}),
  ]  # fmt: skip
  folder = grpo(tmp_path / "a", evals=evals, curve=curve())
  words, text = checked(folder)
  for said in ("optimum, too few samples to trust", "step 0", "step 20", "n=4",
               "this run, gold reward", "0.7 to 0.75", "0.44"):  # fmt: skip
    assert said in words, said
  assert 'class="line ink dash"' in text and text.count("plot wide") == 1
  exact = grpo(tmp_path / "b", curve=curve(exact=True))
  words, text = checked(exact)
  assert "optimum, exact" in words and "band ink" not in text
  assert 'class="line ink dash" d="M' not in text.replace("M1 4H21", "")
  shown = attained.attained([("", read.run(exact))])
  assert shown and [row[1] for row in shown.table] == ["0", "0.9"]


# ------------------------------------------------------------ rules
def named(folder, name):
  return next(f for f in verdict.findings(read.run(folder)) if f.name == name)


@pytest.mark.parametrize(
  "name, metric, fine, look",
  [
    ("group collapse", "group_collapse", 0.5, 0.51),
    ("ratio error", "logprob_abs_diff_max", 1e-4, 1.01e-4),
    ("clipping", "clip_fraction", 0.3, 0.31),
    ("size of a step", "approx_kl", 0.02, 0.021),
    ("rows without a judgement", "valid", 0.95, 0.94),
    ("critic", "explained_variance", 0.0, -0.01),
    ("compiled again", "compiles/update", 1.0, 2.0),
    ("numbers that are not finite", "loss", 0.0, None),
  ],
)
def test_rules_of_a_level_on_both_sides(tmp_path, name, metric, fine, look):
  for value, wanted in ((fine, False), (look, True)):
    rows = [(s, training(s, **{metric: value})) for s in range(1, 21)]
    found = named(grpo(tmp_path / str(wanted), rows=rows), name)
    assert found.look is wanted
    assert found.said and found.limit and found.fix


@pytest.mark.parametrize(
  "name, metric, start, fine, look",
  [
    ("truncation", "truncated", 0.06, 0.10, 0.12),
    ("truncation", "truncated", 0.2, 0.25, 0.26),
    ("length drift", "length", 10.0, 15.0, 15.2),
    ("length drift", "length", 10.0, 6.7, 6.6),
    ("length drift", "length", 1.0, 2.9, 3.1),
    ("over-fitting", "held/loss", 1.0, 1.05, 1.06),
  ],
)
def test_rules_of_a_change_on_both_sides(
  tmp_path, name, metric, start, fine, look
):
  for value, wanted in ((fine, False), (look, True)):
    evals = [(0, {metric: start}), (20, {metric: value})]
    found = named(grpo(tmp_path / str(wanted), evals=evals), name)
    assert found.look is wanted, found


def test_the_rule_of_wasted_kl(tmp_path):
  for kl, wasted, wanted in ((1.0, 0.5, False), (1.0, 0.51, True),
                             (0.1, 0.1, False), (0.1, 0.11, True)):  # fmt: skip
    evals = [(0, {"reward": 0.5, "kl": 0.0, "kl_wasted": 0.0}),
             (20, {"reward": 0.6, "kl": kl, "kl_wasted": wasted})]  # fmt: skip
    folder = grpo(tmp_path / f"{kl}-{wasted}", evals=evals)
    assert named(folder, "KL beyond what the reward needs").look is wanted


def test_without_a_frontier_a_worse_end_at_more_kl_is_seen(tmp_path):
  best = [answer(str(i), "", 1.0) for i in range(8)]
  worse = [answer(str(i), "", float(i > 3)) for i in range(8)]
  answers = {"eval_10": best, "eval_20": worse}
  for kl, wanted in ((0.5, False), (1.5, True)):
    evals = [(0, {"reward": 0.2, "kl": 0.0}), (10, {"reward": 1.0, "kl": 1.0}),
             (20, {"reward": 0.5, "kl": kl})]  # fmt: skip
    folder = grpo(tmp_path / str(kl), evals=evals, answers=answers)
    found = named(folder, "KL beyond what the reward needs")
    assert found.look is wanted and "step 10" in found.said


def test_gold_that_falls_while_the_proxy_rises_is_hacking(tmp_path):
  for gold, wanted in ((0.6, False), (0.1, True)):
    path = {0: (0.5, 0.5), 10: (0.6, 0.7), 20: (gold, 0.9)}
    evals = [(s, {"reward": g, "proxy": p}) for s, (g, p) in path.items()]
    folder = grpo(tmp_path / str(gold), evals=evals)
    assert named(folder, "reward hacking").look is wanted


def test_entropy_is_estimated_from_samples_where_it_is_not_logged(tmp_path):
  rows = lambda logp: [answer(str(i), "", 1.0, logp=[logp]) for i in range(4)]
  answers = {f"eval_{s}": rows(-1.0 / (s + 1)) for s in (0, 1, 3)}
  run = read.run(grpo(tmp_path / "a", answers=answers))
  assert read.surprise(run) == [(0, 1.0), (1, 0.5), (3, 0.25)]
  assert "1 -> 0.583 nats" in named(run.path, "entropy collapse").said


def test_the_rule_of_entropy_on_both_sides(tmp_path):
  cases = ((1, 0.051, False), (1, 0.049, True),
           (0.2, 0.021, False), (0.2, 0.019, True))  # fmt: skip
  for first, last, wanted in cases:
    rows = [(s, training(s, entropy=last)) for s in range(1, 21)]
    rows[0][1]["entropy"] = first
    folder = grpo(tmp_path / f"{first}-{last}", rows=rows)
    assert named(folder, "entropy collapse").look is wanted


def test_ratio_error_of_bf16_is_the_mean_and_stale_steps_do_not_count(tmp_path):
  for mean, wanted in ((0.03, False), (0.031, True)):
    rows = [(s, training(s, logprob_abs_diff=mean, logprob_abs_diff_max=1.0))
            for s in range(1, 21)]  # fmt: skip
    folder = grpo(tmp_path / str(mean), rows=rows, model__dtype="bfloat16")
    assert named(folder, "ratio error").look is wanted
  old = {"logprob_abs_diff_max": 1.0, "staleness": 1.0}
  rows = [(s, training(s, **(old if s > 9 else {}))) for s in range(1, 21)]
  assert not named(grpo(tmp_path / "ahead", rows=rows), "ratio error").look


def test_standard_errors_by_hand(tmp_path):
  run = read.run(grpo(tmp_path / "a", eval__prompts=32))
  # Half right of 8, spread over the 32 that were evaluated.
  assert stats.error(run, 0) == pytest.approx(math.sqrt(8 * 0.25 / 7 / 32))
  changes = [float(i != 3) - i % 2 for i in range(8)]
  mean = sum(changes) / 8
  spread = math.sqrt(sum((c - mean) ** 2 for c in changes) / 7)
  assert stats.error(run, 20, 0) == pytest.approx(spread / math.sqrt(32))
  assert stats.error(run, 5) is None
  gain = named(run.path, "held-out reward")
  assert gain.look is not (0.375 > 2 * spread / math.sqrt(32))


def test_what_helps_names_fields_that_exist():
  known = {n for n, _ in fields.flatten(config.load("grpo"))}
  code = (paths.REPO / "rlreward/report/verdict.py").read_text()
  sections = {n.partition(".")[0] for n in known if "." in n}
  used = set(re.findall(rf"\b((?:{'|'.join(sections)})\.[a-z_]+)", code))
  used = {n for n in used if not n.endswith((".get", ".md"))}
  assert len(used) > 8 and used <= known, used - known


# ------------------------------------------------------------ facts, figures
def test_facts_are_those_of_the_page_of_metrics():
  text = (paths.REPO / "docs/metrics.md").read_text()
  rows = {}
  for line in re.findall(r"^\| (`.*) \|$", text, re.M):
    names, unit, _, healthy = line.split(" | ")
    for i, name in enumerate(re.findall(r"`([^`]+)`", names)):
      units = unit.split(", ")
      rows[name] = (
        units[min(i, len(units) - 1)],
        re.sub(r"`|\*\*", "", healthy),
      )
  for name, (unit, healthy) in facts.FACTS.items():
    assert (unit, healthy) == rows[name], name
  used = {spec.fact for spec in figures.SPECS if spec.fact}
  assert used <= set(facts.FACTS)
  assert all(s.fact or s.said or s.title == "Loss" for s in figures.SPECS)


@pytest.mark.parametrize(
  "value, text",
  [(0.0, "0"), (1.0, "1"), (-0.0001, "-0.0001"), (0.5, "0.5"), (12.34, "12.3"),
   (1234.5, "1234"), (54321.0, "54.3k"), (2.5e6, "2.5M"), (3e-6, "3e-06"),
   (None, "-"), (math.nan, "-"), (10.0, "10"), (100.0, "100")],
)  # fmt: skip
def test_numbers_for_people(value, text):
  assert plot.number(value) == text


def test_ticks_are_round_and_inside():
  assert plot.ticks(0.0, 1.0, 4) == [0.0, 0.5, 1.0]
  assert plot.ticks(-0.3, 0.3, 4) == [-0.2, 0.0, 0.2]
  assert plot.ticks(3.0, 3.0, 4) == [3.0]
  assert len(plot.ticks(0, 10_000, 5)) <= 6


def test_a_logarithmic_axis_needs_positive_values():
  for low in (1e-8, -1.0):
    line = plot.Series("", [0, 1], [low, 1e-2])
    assert plot.curves([line], alt="x", log=True)
  axes = plot.Axes((0, 1), (1e-4, 1e-2), (400, 200), log=True)
  ys = [axes.at(0, y)[1] for y in (1e-4, 1e-3, 1e-2)]
  assert ys[0] - ys[1] == pytest.approx(ys[1] - ys[2], abs=0.2)
