"""Wrong input of every kind: three lines, exit code 2, no traceback of ours.

Everything goes through the command line, in this process. What can be known
before compiling is refused before: such a case leaves no metrics.jsonl.
"""

import gzip
import json
import pathlib
import shutil

import jax
import numpy as np
import pytest

from rlreward import claims, cli, train

WORDS = '''"""Prompts and a reward in the current directory."""
from configs import common
from rlreward.tasks import text

def get_config(arg="mini"):
  c = common.base()
  c.steps, c.prompts_per_step, c.samples_per_prompt = 2, 2, 2
  c.sampling.max_new_tokens = 3
  c.model.update(width=16, heads=2, kv_heads=1, head_dim=8, mlp=24)
  c.eval.update(every=0, prompts=2)
  c.log.tensorboard = False
  c.task = c.task.__class__(text.defaults())
  c.task.update(
    train="rows.jsonl", test="rows.jsonl", prompt_length=4,
    rewards="judge.py:score", tokenizer="char:0123456789+=")
  return c
'''
ROWS = '{"prompt": "1+1=", "want": 2}\n{"prompt": "1+2=", "want": 3}\n'
JUDGE = (
  "def score(completion, want):\n  return float(len(completion) == want)\n"
)


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
  """An own directory with a config, data and a reward that work."""
  monkeypatch.chdir(tmp_path)
  monkeypatch.setenv("RLREWARD_OFFLINE", "1")
  (tmp_path / "configs").mkdir()
  write("configs/words.py", WORDS)
  write("rows.jsonl", ROWS)
  write("judge.py", JUDGE)
  return tmp_path


@pytest.fixture(scope="module")
def done(tmp_path_factory):
  """A finished run, read only."""
  folder = tmp_path_factory.mktemp("done")
  with pytest.MonkeyPatch.context() as patch:
    patch.chdir(folder)
    assert cli.main([*grpo("steps=1", "eval.every=0"), "--workdir=run"]) == 0
  return folder / "run"


def write(name, text):
  path = pathlib.Path(name)
  path.write_bytes(text if isinstance(text, bytes) else text.encode())


def grpo(*fields):
  """The repository's own config with some fields changed."""
  small = ("steps=3", "log.tensorboard=False")
  given = [f"--config.{f}" for f in (*small, *fields)]
  return ["train", "--config=grpo:mini", *given]


def words(*fields):
  """The text config with some fields changed."""
  return ["train", "--config=configs/words.py", *(
    f"--config.{f}" for f in fields)]  # fmt: skip


def refused(capsys, argv, *said):
  """Runs a command and returns what it says; it must be the three lines."""
  capsys.readouterr()
  code = cli.main(argv)
  out, err = capsys.readouterr()
  lines = err.splitlines()
  assert code == 2, out
  starts = ("error: ", "  why: ", "  fix: ")
  assert len(lines) == 3, err
  for line, start in zip(lines, starts, strict=True):
    assert line.startswith(start) and len(line) > len(start) + 5, err
  for part in said:
    assert part in err, err
  return err


def refused_early(capsys, argv, *said):
  """The same, before anything compiles."""
  refused(capsys, [*argv, "--workdir=run"], *said)
  assert not pathlib.Path("run/metrics.jsonl").exists()


# ------------------------------------------------------------ command line
@pytest.mark.parametrize(
  ("line", "said"),
  [
    ("trian --config=grpo", "write rlreward train"),
    ("fly", "use one of: train, eval"),
    ("--config=grpo", "does not know --config=grpo"),
    ("train", "required: --config"),
    (
      "train --config=nope.py",
      "use one of: algorithms, asymptotics, clip_delta, ",
    ),
    ("train --config=gpro", "did you mean 'grpo'?"),
    ("train --config=grpo --worddir=x", "does not know --worddir=x"),
    ("train --config=grpo more", "does not know more"),
    ("train --config=grpo --overwrite=yes", "--overwrite"),
    ("train --config=grpo:=3", "no field name before '='"),
    ("train --config=grpo --config.steps", "write --config.steps=VALUE"),
    ("train --config=grpo --config.=3", "no field ''"),
    ("train --config=grpo --distributed", "leave --distributed out"),
    ("eval", "required: --run"),
    ("eval --run=nothing", "holds no run"),
    ("eval --run=judge.py", "holds no run"),
    ("sample", "exactly one of --run and --model"),
    ("sample --run=a --model=b", "exactly one of --run and --model"),
    ("sample --run=nothing", "holds no run"),
    ("sample --model=a/b/c --prompt=x", "is not a directory"),
    ("sample --model=a", "needs at least one --prompt"),
    ("sample --run=a --n=two", "invalid int value: 'two'"),
    ("sample --run=a --config.seed=1", "does not know --config.seed=1"),
    ("export --run=a", "required: --out"),
    ("export --run=nothing --out=b", "holds no run"),
    ("check-parity", "required: --model"),
    ("check-parity --model=a/b/c", "is not a directory"),
    ("check-parity --model=.", "config.json does not exist"),
    ("list novels", "invalid choice: 'novels'"),
    ("doctor now", "does not know now"),
    ("doctor --config.x=1", "does not know --config.x=1"),
  ],
)
def test_command_lines(capsys, line, said, monkeypatch):
  def lonely():
    raise ValueError("coordinator_address should be defined.")

  monkeypatch.setattr(jax.distributed, "initialize", lonely)
  if "parity" in line:
    pytest.importorskip("torch")
  refused(capsys, line.split(), said)


# ------------------------------------------------------------ config files
@pytest.mark.parametrize(
  ("text", "spec", "said"),
  [
    ("def get_config(:\n", "", "line 1: SyntaxError"),
    ("\nimport absent_module\n", "", "line 2: ModuleNotFoundError"),
    ("def get_config(arg=''):\n  return 1 / 0\n", "", "line 2: ZeroDivision"),
    ("def get_config(arg=''):\n  return None\n", "", "returns a NoneType"),
    ("def get_config(arg=''):\n  return {'seed': 1}\n", "", "has no algorithm"),
    ("def get_config():\n  return {}\n", ":mini", "takes no argument"),
    ("CONFIG = {}\n", "", "has no get_config"),
    (
      "PRESETS = ('mini', 'pod')\ndef get_config(arg='mini'):\n  return {}\n",
      ":minni",
      "no preset 'minni'",
    ),
  ],
)
def test_config_files(capsys, text, spec, said):
  write("configs/mine.py", text)
  refused_early(capsys, ["train", f"--config=configs/mine.py{spec}"], said)


@pytest.mark.parametrize(
  ("field", "said"),
  [
    ("stesp=3", "did you mean 'steps'"),
    ("optimizer.lr=1", "use one of: optimizer.b1"),
    ("optimizer.learning_rat=1", "use 'optimizer.learning_rate'"),
    ("learning_rate=1", "use 'optimizer.learning_rate'"),
    ("modle.width=8", "use 'model.width'"),
    ("task.digit=1", "use 'task.digits'"),
    ("steps=many", "not of type int"),
    ("steps=1.5", "not of type int"),
    ("optimizer.learning_rate=fast", "not of type float"),
    ("log.tensorboard=maybe", "not of type bool"),
    ("model=3", "name one of its fields"),
    ("model.lora_targets=q", "not of type tuple"),
    ("loss.clip_low=small", "give it as float, or None"),
    ("algorithm=gpro", "use one of: gspo, grpo"),
    ("task.name=arithmetics", "use one of: arithmetic"),
    ("task.name=tokens", "not a task"),
    ("task.digits=0", "digits=0"),
    ("task.operations=/", "operations='/'"),
    ("steps=0", "steps=0"),
    ("prompts_per_step=0", "prompts_per_step=0"),
    ("samples_per_prompt=1", "every advantage would be zero"),
    ("samples_per_prompt=-2", "samples_per_prompt=-2"),
    ("updates_per_step=3", "does not divide prompts_per_step=8"),
    ("updates_per_step=0", "updates_per_step=0"),
    ("epochs=0", "epochs=0"),
    ("microbatch=-1", "microbatch=-1"),
    ("microbatch=7", "set microbatch=8"),
    ("mesh.fsdp=3", "mesh replica=1, fsdp=3, tensor=1 does not fit"),
    ("mesh.replica=0", "does not fit"),
    ("eval.prompts=0", "eval.prompts=0"),
    ("eval.every=-1", "eval.every=-1"),
    ("eval.temperature=-1", "temperature=-1.0"),
    ("checkpoint.every=0", "checkpoint.every=0"),
    ("checkpoint.keep=0", "keep=0"),
    ("log.every=0", "log.every=0"),
    ("log.samples_every=-1", "log.samples_every=-1"),
    ("refill_rounds=-1", "refill_rounds=-1"),
    ("overlong_buffer=-1", "overlong_buffer=-1"),
    ("seed=-1", "0 to 4294967295"),
    ("seed=5_000_000_000", "0 to 4294967295"),
    ("truncation=cut", "keep, mask, penalise"),
    ("truncation=penalise", "overlong_buffer=0 with max_new_tokens=8"),
    ("reference=never", "auto, always"),
    ("sampling.max_new_tokens=0", "max_new_tokens=0"),
    ("sampling.temperature=-1", "temperature=-1"),
    ("sampling.temperature=1e999", "temperature=inf"),
    ("sampling.temperature=0", "another distribution"),
    ("sampling.top_p=0", "top_p=0"),
    ("sampling.top_p=0.9", "another distribution"),
    ("sampling.top_k=-1", "top_k=-1"),
    ("sampling.top_k=5", "another distribution"),
    ("sampling.min_p=1", "min_p=1"),
    ("sampling.min_p=0.1", "another distribution"),
    ("sampling.min_new_tokens=99", "min_new_tokens=99"),
    ("sampling.min_new_tokens=2", "another distribution"),
    ("sampling.cache_dtype=float64", "float32 or bfloat16"),
    ("optimizer.learning_rate=0", "learning_rate=0.0"),
    ("optimizer.learning_rate=-1", "learning_rate=-1.0"),
    ("optimizer.learning_rate=1e999", "learning_rate=inf"),
    ("optimizer.schedule=cosin", "constant, cosine, linear"),
    ("optimizer.warmup_steps=3", "in a run of 3 updates"),
    ("optimizer.warmup_steps=-1", "warmup_steps=-1"),
    ("optimizer.final_fraction=2", "from 0 to 1"),
    ("optimizer.b1=1", "from 0 to below 1"),
    ("optimizer.b2=1.5", "from 0 to below 1"),
    ("optimizer.eps=0", "above 0"),
    ("optimizer.weight_decay=-1", "weight_decay=-1.0"),
    ("optimizer.clip_norm=-1", "clip_norm=-1.0"),
    ("loss.kl=both", "forward, reverse"),
    ("loss.kl_beta=-1", "drives the policy away"),
    ("loss.clip_low=1.5", "from 0 to 1"),
    ("loss.clip_high=-1", "clip_high=-1.0"),
    ("loss.dual_clip=0.5", "above 1"),
    ("loss.entropy=1e999", "entropy=inf"),
    ("model.vocab=8", "the tokenizer has 16 ids, the model 8 rows"),
    ("model.head_dim=7", "use an even head_dim"),
    ("model.kv_heads=3", "not a multiple of kv_heads=3"),
    ("model.width=0", "model.width=0"),
    ("model.layers=0", "model.layers=0"),
    ("model.mlp=0", "model.mlp=0"),
    ("model.norm_eps=-1", "model.norm_eps=-1.0"),
    ("model.rope_theta=0", "model.rope_theta=0.0"),
    ("model.dtype=float16", "float32, bfloat16"),
    ("model.remat=some", "none, dots, full"),
    ("model.lora_rank=-1", "lora_rank=-1"),
    ("model.path=a/b/c", "is not a directory"),
    ("model.path=owner/model", "RLREWARD_OFFLINE is set"),
  ],
)
def test_fields(capsys, field, said):
  refused_early(capsys, grpo(field), said)


@pytest.mark.parametrize(
  ("fields", "said"),
  [
    ("truncation=penalise overlong_buffer=99", "overlong_buffer=99"),
    ("optimizer.warmup_steps=12 updates_per_step=4", "12 updates"),
    ("model.lora_rank=2 model.lora_targets=('x',)", "names ['x']"),
    ("model.lora_rank=2 model.lora_targets=()", "lora_targets=()"),
    ("model.lora_rank=2 model.lora_alpha=0", "lora_alpha=0"),
    ("microbatch=16 updates_per_step=8", "8 rows on 1 data shards"),
    ("algorithm=sft prompts_per_step=6 microbatch=4", "set microbatch=3"),
    ("algorithm=sft optimizer.eps=-1", "eps=-1.0"),
    ("algorithm=sft model.vocab=8", "the model 8 rows"),
  ],
)
def test_fields_that_do_not_go_together(capsys, fields, said):
  refused_early(capsys, grpo(*fields.split()), said)


@pytest.mark.parametrize("field", ["filter_on=nothing"])
@pytest.mark.parametrize("more", ["algorithm=dapo", "refill_rounds=1"])
def test_component_that_the_reward_does_not_have(capsys, field, more):
  argv = [*grpo(field, more), "--workdir=run"]
  refused(capsys, argv, "filter_on='nothing', but the reward has ['correct'")


# ------------------------------------------------------------ data
@pytest.mark.parametrize(
  ("data", "fields", "said"),
  [
    ("", "", "has no rows"),
    ("\n \n", "", "has no rows"),
    ("{", "", "line 1 of rows.jsonl is not JSON"),
    (ROWS + "{'prompt': 1}", "", "line 3 of rows.jsonl is not JSON"),
    ("[1]", "", "line 1 of rows.jsonl is a list"),
    (b'{"prompt": "\xff"}', "", "can't decode byte"),
    ('{"text": "1"}', "", "neither 'prompt' and 'messages'"),
    ('{"prompt": "1", "messages": []}', "", "both 'prompt' and 'messages'"),
    ('{"prompt": 3, "want": 1}', "", "column 'prompt' is 3"),
    ('{"prompt": null, "want": 1}', "", "column 'prompt' is None"),
    ('{"prompt": "", "want": 1}', "", "empty prompt"),
    ('{"prompt": "ab", "want": 1}', "", "character 'a' at 0"),
    (ROWS + '{"promt": "1"}', "", "use 'promt'"),
    (ROWS + '{"prompt": ["1"], "want": 1}', "", "is a list in row 2"),
    (ROWS + '{"prompt": "1", "want": "1"}', "", "is a str in row 2"),
    ('{"prompt": "12345", "want": 1}', "", "raise the limit to 5"),
    ('{"prompt": "12345", "want": 1}', "on_overlong=raise", "limit is 4"),
    (ROWS, "on_overlong=cut", "on_overlong='cut'"),
    (ROWS, "prompt_length=0", "not lengths"),
    (ROWS, "prompt=question", "no column 'question'"),
    (ROWS, "train=", "task.train is empty"),
    (ROWS, "train=none.jsonl", "files beside it"),
    (ROWS, "train=judge.py", "ending that is not known"),
    (ROWS, "train=judge.py:rows", "judge.py has no 'rows'"),
    (ROWS, "train=judge.py:score", "cannot be read: score() missing"),
    (ROWS, "train=tfds:gsm8k", "no name or no split"),
    (ROWS, "train=cut.jsonl.gz", "cannot be read after line"),
    (ROWS, "train=rows.parquet", "cannot be read"),
    (ROWS, "holdout=0.2", "there can be one test split"),
    (ROWS, "test= task.holdout=1.5", "holdout=1.5"),
    (ROWS, "tokenizer=", "no tokenizer is named"),
    (ROWS, "tokenizer=char:", "alphabet '' is empty"),
    (ROWS, "tokenizer=char:11", "repeats '1'"),
    (ROWS, "tokenizer=./none", "does not exist"),
    (ROWS, "tokenizer=.", "no tokenizer could be loaded from '.'"),
    (
      '{"messages": [{"role": "user", "content": "1"}], "want": 1}',
      "",
      "has no chat template",
    ),
  ],
)
def test_data_files(capsys, data, fields, said):
  write("rows.jsonl", data)
  write("cut.jsonl.gz", gzip.compress(ROWS.encode() * 99)[:40])
  write("rows.parquet", b"not parquet")
  changes = [f"task.{f}".replace("task.task.", "task.") for f in fields.split()]
  refused_early(capsys, words(*changes), said)


@pytest.mark.parametrize(
  ("fields", "said"),
  [
    ("", "the completion None in column 'completion'"),
    ("task.completion=want", "the completion 2 in column 'want'"),
    ("task.completion=prompt task.row_length=8", "raise the limit to 9"),
  ],
)
def test_demonstrations(capsys, fields, said):
  refused_early(capsys, words("algorithm=sft", *fields.split()), said)


# ------------------------------------------------------------ rewards
@pytest.mark.parametrize(
  ("path", "said"),
  [
    ("judge.py", "has no module or no name"),
    ("none.py:score", "there is no file 'none.py'"),
    ("judge.py:scoer", "use judge.py:score"),
    ("no_such_module:f", "there is no module 'no_such_module'"),
    ("judge.py:score@much", "write judge.py:score@1.0"),
    ("judge.py:score@0", "every weight of the rewards ['score'] is 0"),
    ("judge.py:score,judge.py:score", "two reward functions have the name"),
    ("broken.py:score", "SyntaxError"),
    ("needs.py:score", "no column or field 'answer'"),
    ("number.py:score", "is a int"),
  ],
)
def test_reward_paths(capsys, path, said):
  write("broken.py", "def score(:\n")
  write("needs.py", "def score(completion, answer):\n  return 1.0\n")
  write("number.py", "score = 3\n")
  refused_early(capsys, words(f"task.rewards={path}"), said)


@pytest.mark.parametrize(
  ("body", "said"),
  [
    ("(completion): return 'good'", "returned the string 'good'"),
    ("(completion): return float('nan')", "returned NaN"),
    ("(completion): return [1.0]", "a list of 1 entries"),
    ("(completion): return {}", "an empty dict"),
    ("(completion): return completion.nothing", "raised AttributeError"),
    ("(batch): return [1.0]", "expected a sequence of 2"),
  ],
)
def test_reward_returns(capsys, body, said):
  write("judge.py", f"def score{body}\n")
  argv = [*words(), "--workdir=run"]
  refused(capsys, argv, "judge.py:score", said)


def test_online_task_without_a_reward(capsys):
  argv = [*words("task.rewards="), "--workdir=run"]
  refused(capsys, argv, "the task has no reward", "task.rewards")


def test_task_without_prompts_to_evaluate_on(capsys):
  argv = [*words("task.test="), "--workdir=run"]
  refused(capsys, argv, "there is no split 'test'", "task.holdout")


# ------------------------------------------------------------ checkpoints in
def edit(change):
  from safetensors.numpy import load_file, save_file

  tensors = load_file("hf/model.safetensors")
  change(tensors)
  save_file(tensors, "hf/model.safetensors")


def fields(**changes):
  found = json.loads(pathlib.Path("hf/config.json").read_text())
  write("hf/config.json", json.dumps({**found, **changes}))


@pytest.mark.parametrize(
  ("spoil", "said"),
  [
    (lambda: pathlib.Path("hf/config.json").unlink(), "does not exist"),
    (lambda: pathlib.Path("hf/model.safetensors").unlink(), "No such file"),
    (lambda: write("hf/model.safetensors", b"123"), "cannot be read"),
    (lambda: fields(model_type="mamba"), "model_type='mamba'"),
    (lambda: fields(hidden_act="relu"), "hidden_act='relu'"),
    (lambda: fields(num_hidden_layers=3), "layers.2."),
    (lambda: fields(num_hidden_layers=1), "layers.1."),
    (lambda: fields(vocab_size=8), "the model 8 rows"),
    (lambda: edit(lambda t: t.pop("model.norm.weight")), "model.norm.weight"),
    (lambda: edit(lambda t: t.update(x=np.zeros(1))), "without a place"),
  ],
)
def test_checkpoint_directories(capsys, done, spoil, said):
  assert cli.main(["export", f"--run={done}", "--out=hf"]) == 0
  spoil()
  argv = [*words("model.path=hf", "task.rewards=judge.py:score")]
  refused(capsys, [*argv, "--workdir=run"], said)


# ------------------------------------------------------------ runs
@pytest.mark.parametrize(
  ("line", "said"),
  [
    ("eval --run=run --config.eval.prompts=0", "batch size 0"),
    ("eval --run=run --config.evla.prompts=9", "use 'eval.prompts'"),
    ("eval --run=run --config.model.width=64", "of another model or method"),
    ("eval --run=run --config.task.digits=0", "digits=0"),
    ("eval --run=empty", "holds no whole checkpoint"),
    ("eval --run=torn", "is not a JSON object"),
    ("eval --run=bare", "the config has no algorithm"),
    ("sample --run=run --prompt=abc", "character 'a' at 0"),
    ("sample --run=run --prompt=", "a prompt is empty"),
    ("sample --run=run --n=0", "samples_per_prompt=0"),
    ("sample --run=run --temperature=-1", "temperature=-1.0"),
    ("sample --run=run --top_p=2", "top_p=2.0"),
    ("sample --run=run --top_k=-1", "top_k=-1"),
    ("sample --run=run --max_new_tokens=0", "max_new_tokens=0"),
    ("sample --run=empty", "holds no whole checkpoint"),
    ("export --run=run --out=run", "exists and is not an empty directory"),
    ("export --run=run --out=judge.py", "is not an empty directory"),
    ("export --run=empty --out=new", "holds no whole checkpoint"),
  ],
)
def test_runs(capsys, done, line, said):
  shutil.copytree(done, "run")
  for name, text in (("torn", "{"), ("bare", "{}"), ("empty", None)):
    pathlib.Path(name).mkdir()
    text = (done / "config.json").read_text() if text is None else text
    write(f"{name}/config.json", text)
  refused(capsys, line.split(), said)


def test_run_directories(capsys, done):
  shutil.copytree(done, "run")
  other = [*grpo("steps=1", "eval.every=0", "seed=7"), "--workdir=run"]
  refused(capsys, other, "seed: 0 -> 7", "--overwrite")
  refused(capsys, [*grpo(), "--workdir=judge.py"], "cannot be written")
  refused(capsys, [*grpo(), "--workdir=judge.py/run"], "cannot be written")
  write("run/config.json", "{")
  refused(capsys, [*grpo(), "--workdir=run"], "is not a JSON object")


def test_overwrite_deletes_runs_and_nothing_else(capsys):
  pathlib.Path("thesis").mkdir()
  write("thesis/main.tex", "years of work")
  argv = [*grpo("loss.kl=both"), "--overwrite"]
  refused(capsys, [*argv, "--workdir=thesis"], "holds no run")
  refused(capsys, [*argv, "--workdir=."], "holds no run")
  assert pathlib.Path("thesis/main.tex").read_text() == "years of work"
  # An empty directory and one that does not exist have nothing to lose.
  pathlib.Path("new").mkdir()
  for name in ("new", "newer"):
    refused(capsys, [*argv, f"--workdir={name}"], "loss.kl='both'")


def test_a_damaged_checkpoint_is_named(capsys, done):
  shutil.copytree(done, "run")
  for file in pathlib.Path("run/checkpoints").rglob("*"):
    if file.is_file() and "commit_success" not in file.name:
      file.write_bytes(b"")
  refused(capsys, ["eval", "--run=run"], "run/checkpoints/1 cannot be read")


def test_a_loss_that_is_not_finite_stops_the_run(capsys):
  argv = [*grpo("algorithm=sft", "optimizer.learning_rate=1e30", "steps=9")]
  argv.append("--workdir=run")
  refused(capsys, argv, "loss is nan", "optimizer.learning_rate")


@pytest.mark.parametrize(
  ("line", "said"),
  [
    ("nope.py", "there is no config file 'nope.py'"),
    ("grpo --seeds=a", "--seeds='a' is not a list"),
    ("grpo --seeds=", "--seeds='' is not a list"),
    ("grpo --seeds=0,1,1", "different whole numbers"),
    ("grpo --seeds=-1", "0 to 4294967295"),
    ("grpo:mini,stesp=3", "did you mean 'steps'"),
    ("grpo:mini,steps=0 --out=out", "steps=0"),
  ],
)
def test_the_claims_command(capsys, line, said):
  assert claims.main(line.split()) == 2
  lines = capsys.readouterr().err.splitlines()
  assert [x[:7] for x in lines] == ["error: ", "  why: ", "  fix: "]
  assert said in "".join(lines)
  assert not pathlib.Path("out").exists()


@pytest.mark.parametrize(
  "field",
  [
    "optimizer.learning_rate",
    "loss.kl_beta",
    "sampling.top_p",
    "eval.temperature",
  ],
)
def test_nan_is_no_number(capsys, field):
  refused_early(capsys, grpo(f"{field}=nan"), "not of type float")


@pytest.mark.parametrize(
  ("field", "said"),
  [
    ("start.steps=-1", "steps=-1"),
    ("start.stepz=1", "use 'start.steps'"),
    ("start.algorithm=sftt", "use one of: sft"),
    ("start.optimizer.learning_rate=-1", "learning_rate=-1.0"),
  ],
)
def test_an_earlier_stage(capsys, field, said):
  argv = ["train", "--config=quickstart:mini", f"--config.{field}"]
  refused_early(capsys, argv, said)


def test_errors_of_ours_are_not_hidden(monkeypatch):
  # Only bad input is printed in three lines; a bug keeps its traceback.
  def bug(*args, **kwargs):
    raise ZeroDivisionError

  monkeypatch.setattr(train, "run", bug)
  with pytest.raises(ZeroDivisionError):
    cli.main([*grpo(), "--workdir=run"])
