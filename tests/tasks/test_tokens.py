"""Tokenizers, chat templates with assistant masks, padding, buckets."""

import json
import pathlib

import numpy as np
import pytest

from rlreward.errors import UserError
from rlreward.sampling.buckets import bucket
from rlreward.tasks import tokens
from rlreward.tasks.tokens import CharTokenizer, HfTokenizer, left_pad

GOLDEN = pathlib.Path(__file__).parent.parent / "golden_chat"
NAMES = sorted(p.stem for p in GOLDEN.glob("*.json"))


def hf(
  template=None, eos="</s>", bos=None, special=(), adds_bos=False, pad=None
):
  """A byte-free character tokenizer of transformers with special tokens."""
  lib = pytest.importorskip("tokenizers")
  transformers = pytest.importorskip("transformers")
  chars = [chr(i) for i in range(32, 127)] + ["\n"]
  core = lib.Tokenizer(
    lib.models.BPE({c: i for i, c in enumerate(chars)}, [], unk_token="?")
  )
  core.decoder = lib.decoders.Fuse()
  names = [t for t in (eos, bos, pad) if t] + list(special)
  core.add_special_tokens(names)
  if adds_bos:
    core.post_processor = lib.processors.TemplateProcessing(
      single=f"{bos} $A", special_tokens=[(bos, core.token_to_id(bos))]
    )
  made = transformers.PreTrainedTokenizerFast(
    tokenizer_object=core,
    eos_token=eos,
    bos_token=bos,
    pad_token=pad,
    additional_special_tokens=list(special),
  )
  made.chat_template = template
  return made


def golden(name):
  g = json.loads((GOLDEN / f"{name}.json").read_text())
  return g, HfTokenizer(hf(g["template"], g["eos"], g["bos"], g["special"]))


@pytest.mark.parametrize("name", NAMES)
def test_templates_of_the_families(name):
  g, tok = golden(name)
  ids, mask = tok.chat_with_mask(g["messages"])
  assert tok.decode(ids, skip_special=False) == g["text"]
  spans = np.flatnonzero(np.diff(np.r_[0, mask, 0])).reshape(-1, 2)
  said = [tok.decode(ids[a:b], skip_special=False) for a, b in spans]
  assert said == g["assistant"]
  first = [m["role"] for m in g["messages"]].index("assistant")
  prompt = tok.chat(g["messages"][:first])
  assert tok.decode(prompt, skip_special=False) == g["prompt"]
  assert ids[: len(prompt)] == prompt


def test_both_ways_to_the_mask_agree():
  (a, with_marks), (b, without) = golden("chatml_generation"), golden("chatml")
  assert with_marks.chat_with_mask(a["messages"]) == without.chat_with_mask(
    b["messages"]
  )


def test_a_template_that_rewrites_the_past_is_refused():
  template = (
    "{% for m in messages %}{{ m['role'] + ':' }}"
    "{% if m['role'] == 'assistant' and not loop.last %}{{ 'cut' }}"
    "{% else %}{{ m['content'] }}{% endif %}{{ eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant:' }}{% endif %}"
  )
  tok = HfTokenizer(hf(template))
  chat = [
    {"role": "user", "content": "a"},
    {"role": "assistant", "content": "b"},
    {"role": "user", "content": "c"},
    {"role": "assistant", "content": "d"},
  ]
  assert any(tok.chat_with_mask(chat[:2])[1])
  with pytest.raises(UserError, match="generation %"):
    tok.chat_with_mask(chat)


def test_encode_decode_and_ids():
  tok = HfTokenizer(hf(eos="</s>", bos="<s>"))
  assert tok.pad_id == tok.eos_ids[0]  # no pad of its own
  assert not tok.adds_bos and tok.encode("ab", bos=True)[0] == tok.bos_id
  ids = [*tok.encode("a b,c"), tok.eos_ids[0]]
  assert tok.decode(ids) == "a b,c"
  assert tok.decode(ids, skip_special=False) == "a b,c</s>"
  assert max(ids) < tok.vocab_size
  assert HfTokenizer(hf(bos="<s>", adds_bos=True)).adds_bos
  assert HfTokenizer(hf(), eos_ids=[3]).eos_ids[1] == 3


def test_load_a_directory_with_several_stop_ids(tmp_path):
  hf(eos="</s>", bos="<s>").save_pretrained(tmp_path)
  (tmp_path / "generation_config.json").write_text('{"eos_token_id": [95, 4]}')
  tok = tokens.load(str(tmp_path))
  assert set(tok.eos_ids) >= {95, 4}
  assert tok.decode(tok.encode("abc")) == "abc"
  assert isinstance(tokens.load("char:ab"), CharTokenizer)


def test_save_and_load(tmp_path):
  g, tok = golden("llama3")
  tok.save(tmp_path)
  again = tokens.load(str(tmp_path))
  assert again.chat_with_mask(g["messages"]) == tok.chat_with_mask(
    g["messages"]
  )
  assert again.eos_ids == tok.eos_ids


@pytest.mark.parametrize("pad_is_eos", [False, True])
@pytest.mark.parametrize("bos", [False, True])
def test_characters(pad_is_eos, bos, tmp_path):
  tok = CharTokenizer("ab=", pad_is_eos, bos)
  tok.save(tmp_path)
  same = tokens.load(str(tmp_path))
  assert vars(same) == vars(tok)
  assert (tok.pad_id in tok.eos_ids) == pad_is_eos
  assert tok.vocab_size == 5 - pad_is_eos + bos
  ids = tok.encode("ab=a", bos=tok.adds_bos)
  assert tok.decode(ids) == "ab=a" and len(ids) == 4 + bos
  assert tok.decode([*ids, tok.eos_ids[0]], False).endswith("a<eos>")
  assert len({*tok.encode("ab="), tok.pad_id, *tok.eos_ids}) == 5 - pad_is_eos


@pytest.mark.parametrize("make", [lambda: CharTokenizer("ab"), None])
def test_ids_beyond_the_tokenizer_are_no_text(make):
  """Embeddings are often larger than the vocabulary."""
  tok = make() if make else HfTokenizer(hf())
  a, b = tok.encode("a"), tok.encode("b")
  beyond = [tok.vocab_size, tok.vocab_size + 5]
  assert tok.decode([*beyond[:1], *a, *beyond, *b]) == "\ufffda\ufffd\ufffdb"


def test_left_and_right_pad():
  ids, mask = left_pad([[1, 2], [], [3, 4, 5]], 3, 9)
  np.testing.assert_array_equal(ids, [[9, 1, 2], [9, 9, 9], [3, 4, 5]])
  np.testing.assert_array_equal(mask, [[0, 1, 1], [0, 0, 0], [1, 1, 1]])
  assert ids.dtype == np.int32 and mask.dtype == bool
  ids, mask = tokens.right_pad([[1, 2]], 3, 9)
  np.testing.assert_array_equal(ids, [[1, 2, 9]])
  assert left_pad([], 4, 0)[0].shape == (0, 4)


def test_bucket():
  assert [bucket(n, (8, 4)) for n in (0, 4, 5, 8)] == [4, 4, 8, 8]


def chat(*turns):
  return [{"role": r, "content": c} for r, c in turns]


def _chatml():
  return golden("chatml")[1]


BAD = {
  "bucket": lambda: bucket(9, (4, 8)),
  "no buckets": lambda: bucket(1, ()),
  "bucket 0": lambda: bucket(1, (0, 4)),
  "too long": lambda: left_pad([[1, 2, 3]], 2, 0),
  "alphabet": lambda: CharTokenizer("aba"),
  "no alphabet": lambda: CharTokenizer(""),
  "character": lambda: CharTokenizer("ab").encode("abc"),
  "negative id": lambda: CharTokenizer("ab").decode([-1]),
  "char chat": lambda: CharTokenizer("ab").chat(chat(("user", "a"))),
  "char mask": lambda: CharTokenizer("ab").chat_with_mask([]),
  "no directory": lambda: tokens.load("/no/such/tokenizer"),
  "no directory here": lambda: tokens.load("./no_tokenizer"),
  "no template": lambda: HfTokenizer(hf()).chat(chat(("user", "a"))),
  "no eos": lambda: HfTokenizer(hf(eos=None)),
  "not text": lambda: HfTokenizer(hf()).encode(3),
  "double bos": lambda: HfTokenizer(hf(bos="<s>")).encode("<s>a", bos=True),
  "double bos in chat": lambda: HfTokenizer(
    hf("{{ bos_token + bos_token }}", bos="<s>")
  ).chat(chat(("user", "a"))),
  "empty chat": lambda: _chatml().chat([]),
  "chat is text": lambda: _chatml().chat("hello"),
  "message is text": lambda: _chatml().chat(["hello"]),
  "no role": lambda: _chatml().chat([{"content": "a"}]),
  "no content": lambda: _chatml().chat([{"role": "user"}]),
  "content list": lambda: _chatml().chat([{"role": "user", "content": []}]),
  "ends with assistant": lambda: _chatml().chat(chat(("assistant", "a"))),
  "no assistant": lambda: _chatml().chat_with_mask(chat(("user", "a"))),
  "role refused": lambda: golden("gemma")[1].chat(chat(("system", "a"))),
  "broken template": lambda: HfTokenizer(hf("{% for %}")).chat(
    chat(("user", "a"))
  ),
  "no marks": lambda: HfTokenizer(
    hf("{% if false %}{% generation %}{% endgeneration %}{% endif %}a")
  ).chat_with_mask(chat(("user", "a"), ("assistant", "b"))),
  "empty generation": lambda: HfTokenizer(
    hf("{% generation %}{% endgeneration %}a")
  ).chat_with_mask(chat(("user", "a"), ("assistant", "b"))),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input(case):
  with pytest.raises(UserError) as caught:
    BAD[case]()
  lines = str(caught.value).split("\n")
  assert len(lines) == 3, str(caught.value)
  assert lines[1].startswith("  why: ") and lines[2].startswith("  fix: ")


def test_offline_is_an_error(monkeypatch):
  pytest.importorskip("transformers")
  monkeypatch.setenv("RLREWARD_OFFLINE", "1")
  with pytest.raises(UserError, match="RLREWARD_OFFLINE"):
    tokens.load("someone/some-model")
