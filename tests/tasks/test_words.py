"""The tokenizer of whole words."""

import pytest

from rlreward.errors import UserError
from rlreward.tasks import tokens
from rlreward.tasks.words import WordTokenizer


def test_there_and_back_and_on_disk(tmp_path):
  tok = WordTokenizer(("sum(", ")", "FROM"))
  assert tok.encode("sum(  FROM )") == [2, 4, 3]
  assert tok.decode([0, 2, 4, 3, 1, 1]) == "sum( FROM )"
  assert tok.decode([0, 2, 1], skip_special=False) == "<pad> sum( <eos>"
  assert tok.decode([2, 99]) == "sum( \ufffd"
  tok.save(tmp_path)
  again = tokens.load(str(tmp_path))
  assert again.encode("FROM") == [4] and again.vocab_size == 5


@pytest.mark.parametrize("words", [(), ("a", "a"), ("a b",), ("",)])
def test_words_that_cannot_be_told_apart(words):
  with pytest.raises(UserError, match="vocabulary"):
    WordTokenizer(words)


def test_what_has_no_id_and_no_word():
  tok = WordTokenizer(("a",))
  with pytest.raises(UserError, match="'b' at 1"):
    tok.encode("a b")
  with pytest.raises(UserError, match="negative"):
    tok.decode([-1])
  for chat in (tok.chat, tok.chat_with_mask):
    with pytest.raises(UserError):
      chat([{"role": "user", "content": "a"}])
