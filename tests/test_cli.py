"""Every verb as a new user meets it, in this process."""

import json
import pathlib
import re
import shlex

import jax
import nano
import numpy as np
import paths
import pytest

from rlreward import cli, cli_words, config, train

SMALL = (
  "--config.eval.prompts=8",
  "--config.log.tensorboard=False",
  "--config.sampling.max_new_tokens=4",
)


def call(capsys, *argv):
  """Runs a verb that must succeed and returns what it prints."""
  capsys.readouterr()
  code = cli.main(argv)
  out, err = capsys.readouterr()
  assert code == 0, err
  return out


def grpo(steps, *more):
  fields = (f"--config.steps={steps}", "--config.eval.every=2", *SMALL, *more)
  return ("train", "--config=grpo:mini", *fields)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
  """A finished run of two steps; its directory is only read."""
  folder = tmp_path_factory.mktemp("runs")
  with pytest.MonkeyPatch.context() as patch:
    patch.chdir(folder)
    assert cli.main(grpo(2)) == 0
  return folder / "runs" / "grpo"


# ------------------------------------------------------------ help
def helped(capsys, monkeypatch, *argv):
  monkeypatch.setenv("COLUMNS", "80")
  with pytest.raises(SystemExit) as left:
    cli.main(argv)
  assert left.value.code == 0
  return capsys.readouterr().out


@pytest.mark.parametrize("verb", ["", *cli_words.VERBS])
def test_help_fits_one_screen_with_two_examples(capsys, monkeypatch, verb):
  argv = (verb, "--help") if verb else ("--help",)
  text = helped(capsys, monkeypatch, *argv)
  lines = text.splitlines()
  assert len(lines) <= 45 and max(map(len, lines)) <= 80, text
  examples = re.findall(r"rlreward .*", text.split("examples:\n")[1])
  assert len(examples) == 2
  if not verb:
    assert all(
      f" {name} " in text or f" {name}\n" in text for name in cli_words.VERBS
    )
    assert call(capsys) == text
  joined = text.split("examples:\n")[1].replace("\\\n", " ")
  for example in joined.splitlines():
    args, rest = cli_words.parser().parse_known_args(shlex.split(example)[1:])
    assert args.verb == (verb or "train") or verb == "export"
    assert all(r.startswith("--config.") for r in rest)
    if args.verb == "train":  # the file and the fields are there
      config.load(args.config, rest)


def test_version_and_module(capsys, monkeypatch):
  from rlreward import __version__

  with pytest.raises(SystemExit):
    cli.main(["--version"])
  assert capsys.readouterr().out.strip() == __version__
  assert (paths.REPO / "rlreward" / "__main__.py").is_file()


# ------------------------------------------------------------ train
def test_banner_says_how_to_resume_and_it_does(capsys, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  text = call(capsys, *grpo(2, "--config.task.operations=+-"))
  assert "8 prompts x 8 samples = 64 rows = 1 update x 64" in text
  assert "output runs/grpo" in text
  command = re.search(r"resume with the same command: rlreward (.*)", text)
  assert command
  again = shlex.split(command[1])
  longer = [w.replace("steps=2", "steps=4") for w in again]
  text = call(capsys, *longer)
  assert "resumes from the checkpoint of step 2" in text
  assert "step 4/4" in text and "step 2/4" not in text
  assert "next         rlreward sample --run=runs/grpo" in text
  # A finished run has nothing left to do and says what it found.
  assert "step 3/4" not in call(capsys, *longer)
  rows = pathlib.Path("runs/grpo/metrics.jsonl").read_text().splitlines()
  steps = [r["step"] for r in map(json.loads, rows) if "loss" in r]
  assert steps == [1, 2, 3, 4]
  text = call(capsys, *again, "--overwrite")
  assert "resume with the same command: rlreward train" in text
  assert "--overwrite" not in text and "step 1/2" in text


def test_after_a_refusal_the_same_directory_may_be_used(capsys, tmp_path):
  workdir = f"--workdir={tmp_path / 'run'}"
  assert cli.main([*grpo(1, "--config.loss.kl_beta=-1"), workdir]) == 2
  assert "step 1/1" in call(capsys, *grpo(1), workdir)


def test_print_config_shows_comments_and_trains_nothing(
  capsys, tmp_path, monkeypatch
):
  monkeypatch.chdir(tmp_path)
  text = call(capsys, *grpo(7), "--print_config")
  lines = text.splitlines()
  assert any(x.startswith("steps = 7  # outer steps") for x in lines)
  assert "eval.every = 2  # steps; 0 = only at the ends" in lines
  assert "checkpoint.every = 50  # steps; also at the end and on a signal" in (
    text
  )
  assert "task.digits = 1  # largest operand is 10**digits - 1" in lines
  names = {line.partition(" = ")[0] for line in lines}
  assert names == {n for n, _ in config.flatten(config.load("grpo"))}
  assert not list(tmp_path.iterdir())


def test_the_shared_fields_are_the_ones_a_run_needs():
  assert set(config.NEEDED) == set(config.load("grpo").keys())


def test_an_interrupted_run_says_so(capsys, monkeypatch, tmp_path):
  def interrupt(*args, **kwargs):
    raise KeyboardInterrupt

  monkeypatch.setattr(train, "run", interrupt)
  assert cli.main([*grpo(1), f"--workdir={tmp_path}"]) == 130
  assert "the last checkpoint is intact" in capsys.readouterr().err


# ------------------------------------------------------------ eval, sample
def test_eval_repeats_the_evaluation_of_the_run(capsys, run):
  found = json.loads(call(capsys, "eval", f"--run={run}", "--json"))
  rows = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
  last = [r for r in rows if "eval/reward" in r][-1]
  assert found.pop("step") == last["step"] == 2
  last.pop("eval/length_drift")  # of the whole run
  assert found == {k[5:]: v for k, v in last.items() if k.startswith("eval/")}
  text = call(capsys, "eval", f"--run={run}", "--config.eval.prompts=16")
  names = [line.split()[0] for line in text.splitlines()]
  assert names == [*found, "step"]


def test_sample_takes_held_out_prompts_or_ours(capsys, run):
  rows = call(capsys, "sample", f"--run={run}").splitlines()
  assert len(rows) == 5
  assert all(re.match(r"'\d\+\d=' -> '.*'  \[(stop|length)\]", r) for r in rows)
  argv = ("sample", f"--run={run}", "--prompt=1+2=", "--prompt=34+5=", "--n=3")
  rows = call(capsys, *argv).splitlines()
  assert [r.split(" -> ")[0] for r in rows] == ["'1+2='"] * 3 + ["'34+5='"] * 3
  assert rows == call(capsys, *argv).splitlines()
  assert rows != call(capsys, *argv, "--seed=1").splitlines()
  greedy = (*argv, "--temperature=0", "--max_new_tokens=2")
  rows = call(capsys, *greedy).splitlines()
  assert len(set(rows[:3])) == 1


def test_a_prompt_alone_is_sampled_as_in_a_batch(capsys, run):
  # Padding to the longest prompt of a call changes nothing.
  argv = ("sample", f"--run={run}", "--temperature=0")
  alone = call(capsys, *argv, "--prompt=1+2=")
  both = call(capsys, *argv, "--prompt=1+2=", "--prompt=12+34=")
  assert both.startswith(alone)


# ------------------------------------------------------------ export
@pytest.fixture(scope="module")
def exported(run, tmp_path_factory):
  target = tmp_path_factory.mktemp("hf") / "exported"
  assert cli.main(["export", f"--run={run}", f"--out={target}"]) == 0
  return target


def test_an_exported_policy_samples_the_same(capsys, run, exported):
  argv = ("--prompt=1+2=", "--temperature=0", "--max_new_tokens=4")
  ours = call(capsys, "sample", f"--run={run}", *argv)
  assert call(capsys, "sample", f"--model={exported}", *argv) == ours
  assert json.loads((exported / "rlreward.json").read_text())["step"] == 2


def test_transformers_loads_what_was_exported(run, exported):
  torch = pytest.importorskip("torch")
  import transformers

  from rlreward import runs

  theirs = transformers.AutoModelForCausalLM.from_pretrained(
    exported, local_files_only=True
  )
  found = runs.load(run)
  tokens = np.arange(12).reshape(2, 6) + 2
  with torch.no_grad():
    want = theirs(torch.as_tensor(tokens)).logits.numpy()
  got = jax.jit(found.model.logits)(
    found.variables, tokens, np.ones_like(tokens, bool)
  )
  # f32 sums in another order, logits of size 1.
  np.testing.assert_allclose(got, want, atol=1e-5)


def test_check_parity_of_what_was_exported(capsys, exported):
  pytest.importorskip("torch")
  text = call(capsys, "check-parity", f"--model={exported}")
  assert "ok (tolerance" in text


def test_an_exported_policy_is_a_start(capsys, exported, tmp_path):
  text = call(
    capsys,
    *grpo(1, f"--config.model.path={exported}"),
    f"--workdir={tmp_path / 'run'}",
  )
  assert "step 1/1" in text


# ------------------------------------------------------------ list, doctor
def test_list_has_a_line_for_each(capsys):
  text = call(capsys, "list")
  assert re.findall(r"^\w+$", text, re.M) == [
    "algorithms", "tasks", "configs", "papers", "models",
  ]  # fmt: skip
  for line in text.splitlines():
    if line.startswith(" "):
      assert re.match(r"  \w+ +\S+.{10,}$", line), line
      assert len(line) <= 100
  names = {p.stem for p in (paths.REPO / "configs").glob("*.py")} - {"common"}
  for name in (*names, "grpo", "sft", "arithmetic", "text", "qwen3"):
    assert f"\n  {name} " in text
  only = call(capsys, "list", "tasks")
  assert only in text and "grpo" not in only


def test_doctor_tells_people_and_scripts_the_same(capsys):
  code = cli.main(["doctor", "--json"])
  found = json.loads(capsys.readouterr().out)
  assert code == (0 if found["ok"] else 1)
  assert cli.main(["doctor"]) == code
  text = capsys.readouterr().out
  assert found["python"] in text and found["packages"]["jax"] in text
  assert text.splitlines()[-1] == "all good" or "to fix:" in text


def test_every_logged_metric_is_documented(run):
  page = (paths.REPO / "docs" / "metrics.md").read_text()
  lines = (run / "metrics.jsonl").read_text().splitlines()
  logged = {name for line in lines for name in json.loads(line)}
  method = nano.method(loss__kl_beta=0.1, loss__entropy=0.1, epochs=2)
  state = jax.eval_shape(method.init, jax.random.key(0))
  found = jax.eval_shape(method.step, state, nano.batch(), state.key)[1]
  logged |= set(found) - {"rows"}
  assert {"kl_loss", "entropy", "eval/reward", "seconds/score"} <= logged
  for name in logged - {"step", "time"}:
    part = name.partition("/")[0]
    names = (name, f"{part}/*", f"{part}/<part>")
    assert any(f"`{n}`" in page for n in names), name
