"""The trained llama2.c checkpoint, converted once, speaks as it did before."""

import functools
import json
import struct
import tempfile

import jax
import jax.numpy as jnp
import numpy as np
import paths
import pytest

from rlreward import errors
from rlreward.models import llama2c, pretrained, transformer
from rlreward.sampling import decode


@functools.cache
def converted():
  source = paths.shared_data("tiny_llama_dreams")
  out = tempfile.mkdtemp()
  llama2c.convert(source / "aidreams260K.bin.gz", source / "tok512.bin", out)
  expected = json.loads((source / "expected.json").read_text())
  config, variables = pretrained.load(out)
  return out, expected, transformer.build(config), variables


def logprobs(ids):
  _, _, model, variables = converted()
  tokens = jnp.asarray([ids])
  out = jax.jit(model.logits)(variables, tokens, jnp.ones_like(tokens, bool))
  logp = jax.nn.log_softmax(out[0, :-1])
  return logp[jnp.arange(len(ids) - 1), jnp.asarray(ids[1:])]


@pytest.mark.parametrize(
  ("ids", "logp"),
  [
    ("ids_with_bos", "next_logprobs"),
    ("greedy_from_bos_ids", "greedy_next_logprobs"),
  ],
)
def test_log_probs_are_those_of_the_float64_forward(ids, logp):
  _, expected, *_ = converted()
  # 1e-4: f32 against float64, printed with five digits.
  np.testing.assert_allclose(logprobs(expected[ids]), expected[logp], atol=1e-4)


def test_greedy_sampling_writes_what_run_c_writes():
  out, expected, model, variables = converted()
  from rlreward.tasks import tokens

  want = expected["greedy_from_bos_ids"]
  spec = decode.Spec(len(want) - 1, temperature=0.0)
  prompt = jnp.asarray([[1]])
  rollout = decode.sampler(model, spec)(
    variables, prompt, prompt > 0, jax.random.key(0)
  )
  assert rollout.tokens[0].tolist() == want
  text = tokens.load(out).decode(want)
  assert text.strip() == expected["greedy_text"].strip()


def test_the_tokenizer_gives_the_ids_of_the_reference():
  pytest.importorskip("transformers")
  from rlreward.tasks import tokens

  out, expected, *_ = converted()
  tok = tokens.load(out)
  # run.c puts a space before the first word by itself, and so does Prepend.
  text = expected["text"].removeprefix(" ")
  assert tok.encode(text, bos=True) == expected["ids_with_bos"]
  assert set(tok.eos_ids) == {1, 2}
  assert tok.adds_bos and tok.bos_id == 1
  for text in ("I sense the nodes", "naïve — ünïcode 猫", "two  spaces"):
    assert tok.decode(tok.encode(text)) == text


def write(path, header, floats):
  path.write_bytes(
    struct.pack("7i", *header) + np.zeros(floats, "<f4").tobytes()
  )
  return path


@pytest.mark.parametrize(
  ("header", "floats", "word"),
  [
    ((4, 8, 1, 2, 2, 5, 3), 7, "asks for"),
    ((4, 8, 0, 2, 2, 5, 3), 7, "layers=0"),
    ((5, 8, 1, 2, 2, 5, 3), 7, "width=5"),
  ],
)
def test_other_layouts_are_refused(tmp_path, header, floats, word):
  file = write(tmp_path / "m.bin", header, floats)
  with pytest.raises(errors.UserError, match=word) as error:
    llama2c.read_model(file)
  assert len(str(error.value).splitlines()) == 3


def test_missing_short_and_busy_are_refused(tmp_path):
  (tmp_path / "short.bin").write_bytes(b"1234")
  (tmp_path / "tok.bin").write_bytes(struct.pack("<ifi", 1, 0.0, 1) + b"a")
  for call in (
    lambda: llama2c.read_model(tmp_path / "none.bin"),
    lambda: llama2c.read_model(tmp_path / "short.bin"),
    lambda: llama2c.read_pieces(tmp_path / "tok.bin", 2),
    lambda: llama2c.convert("a", "b", tmp_path),
  ):
    with pytest.raises(errors.UserError):
      call()
  assert llama2c.read_pieces(tmp_path / "tok.bin", 1) == [("a", 0.0)]


def test_an_untied_head_is_read(tmp_path):
  width, mlp, layers, heads, kv, vocab, positions = 4, 8, 1, 2, 1, 5, 3
  size = width // heads
  count = (
    vocab * width * 2
    + layers * (2 * width + 2 * width * width + 2 * kv * size * width)
    + layers * 3 * mlp * width
    + width
    + positions * size
  )
  header = (width, mlp, layers, heads, kv, -vocab, positions)
  config, tensors = llama2c.read_model(write(tmp_path / "m", header, count))
  assert not config["tie_word_embeddings"]
  assert tensors["lm_head.weight"].shape == (vocab, width)


def run_c(pieces, text):
  """The encoder of run.c, line by line: best pair first, leftmost of ties."""
  ids = {}
  for i, (piece, _) in enumerate(pieces):
    ids.setdefault(piece, i)
  out = [1] + ([ids[" "]] if text else [])
  for character in text:
    raw = [b + 3 for b in character.encode()]
    out += [ids[character]] if character in ids else raw
  while True:
    best = (-1e10, -1, -1)
    for i in range(len(out) - 1):
      merged = ids.get(pieces[out[i]][0] + pieces[out[i + 1]][0])
      if merged is not None and pieces[merged][1] > best[0]:
        best = (pieces[merged][1], i, merged)
    if best[1] < 0:
      return out
    out[best[1] : best[1] + 2] = [best[2]]


def test_the_tokenizer_merges_as_run_c_does():
  source = paths.shared_data("tiny_llama_dreams")
  _, expected, *_ = converted()
  pieces = llama2c.read_pieces(source / "tok512.bin", 512)
  fast = llama2c.build_tokenizer(pieces)
  some = expected["greedy_text"] + " — ünï 猫\n\tThe end."
  rng = np.random.default_rng(0)
  for _ in range(200):
    start, size = rng.integers(len(some)), rng.integers(1, 50)
    cut = some[start : start + size]
    mixed = "".join(rng.choice(list(some), size))
    for text in (cut, mixed):
      assert fast(text)["input_ids"] == run_c(pieces, text)


def test_the_converted_directory_agrees_with_transformers():
  pytest.importorskip("torch")
  from rlreward.models import parity

  out, *_ = converted()
  found = parity.check(out)
  assert found.ok, found.text()
