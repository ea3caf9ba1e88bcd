"""Chat messages and text through a transformers tokenizer.

Foreign signatures drift (`apply_chat_template` came to return a mapping), so
each call is made here once with every argument by name.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from rlreward.errors import UserError
from rlreward.rewards import values

UNKNOWN = "\ufffd"  # an id that the tokenizer does not have


class HfTokenizer:
  """A transformers tokenizer.

  Args:
    hf: a tokenizer object of transformers.
    name: shown in messages.
    eos_ids: ids that end a completion; the tokenizer's eos if empty.

  Raises:
    UserError: no eos id, or a set-up that writes bos twice.
  """

  def __init__(self, hf: Any, name: str = "", eos_ids: Sequence[int] = ()):
    self.name = name or str(hf.name_or_path or "tokenizer")
    self._hf = hf
    self.vocab_size = len(hf)
    self.bos_id = hf.bos_token_id
    own = () if hf.eos_token_id is None else (int(hf.eos_token_id),)
    self.eos_ids = tuple(dict.fromkeys((*own, *(int(i) for i in eos_ids))))
    if not self.eos_ids:
      raise UserError(
        f"tokenizer {self.name} has no eos id",
        "completions would never stop",
        "set eos_token in tokenizer_config.json or pass eos_ids",
      )
    pad = hf.pad_token_id
    self.pad_id = self.eos_ids[0] if pad is None else int(pad)
    probe = hf.encode("a", add_special_tokens=True)
    self.adds_bos = self.bos_id is not None and probe[:1] == [self.bos_id]
    self.template: str | None = hf.chat_template
    self.has_chat = bool(self.template)

  def encode(self, text: str, bos: bool = False) -> list[int]:
    """Text to ids, without special tokens but the bos asked for.

    Args:
      text: any text; special tokens written in it become their ids.
      bos: put bos in front where the tokenizer has one.

    Raises:
      UserError: not a string, or bos is in the text already (double bos).
    """
    if not isinstance(text, str):
      raise UserError(
        f"text {head(text)} is a {type(text).__name__}",
        "only strings can be tokenised",
        "give a string",
      )
    ids = [int(i) for i in self._hf.encode(text, add_special_tokens=False)]
    if bos and self.bos_id is not None:
      ids = [int(self.bos_id), *ids]
    return self._one_bos(ids, text)

  def decode(self, ids: Iterable[int], skip_special: bool = True) -> str:
    """Ids to text; spaces are left as the tokens have them.

    A model may have more rows than there are ids; such ids become U+FFFD, so
    that no reward takes them for text.
    """
    out: list[str] = []
    run: list[int] = []

    def flush() -> None:
      if run:
        out.append(
          self._hf.decode(
            token_ids=run,
            skip_special_tokens=skip_special,
            clean_up_tokenization_spaces=False,
          )
        )

    for i in map(int, ids):
      if i < self.vocab_size:
        run.append(i)
      else:
        flush()
        run = []
        out.append(UNKNOWN)
    flush()
    return "".join(out)

  def chat(self, messages: Any) -> list[int]:
    """Messages and the header of the assistant's turn, through the template.

    Args:
      messages: [{"role", "content"}, ...], not ending with the assistant.

    Returns:
      Prompt ids.

    Raises:
      UserError: malformed messages, no template, or the template refuses.
    """
    check_messages(messages)
    if messages[-1]["role"] == "assistant":
      raise UserError(
        "the last message of a prompt is the assistant's own",
        "the model would be asked to answer its own answer",
        "drop the last message, or train on it with sft",
      )
    return self._render(messages, header=True)[0]

  def chat_with_mask(self, messages: Any) -> tuple[list[int], list[bool]]:
    """A whole chat and which of its ids the assistant wrote.

    The template's `{% generation %}` blocks say which; without them the chat
    is rendered up to each assistant turn and the ids compared. Ids after the
    stop token of a turn (a closing newline) are not the assistant's.

    Args:
      messages: [{"role", "content"}, ...] with an assistant message.

    Returns:
      (ids, mask), equally long.

    Raises:
      UserError: malformed messages, no assistant message, or a template whose
        earlier part changes when a message is added.
    """
    check_messages(messages)
    turns = [i for i, m in enumerate(messages) if m["role"] == "assistant"]
    if not turns:
      raise UserError(
        f"{len(messages)} messages, none by the assistant",
        "there would be nothing to train on",
        "add an assistant message, or use the chat as a prompt",
      )
    ids, mask = self._render(messages, header=False)
    if mask is not None:
      spans = _runs(mask)
    else:
      spans = [self._turn(messages, ids, i) for i in turns]
    out = [False] * len(ids)
    for start, stop in spans:
      ends = [t for t in range(start, stop) if ids[t] in self.eos_ids]
      stop = ends[-1] + 1 if ends else stop
      out[start:stop] = [True] * (stop - start)
    if not any(out):
      raise UserError(
        f"the chat template of {self.name} marks no assistant tokens",
        "its generation blocks are empty, so the loss would be empty",
        "put {% generation %} around the assistant's content",
      )
    return ids, out

  def save(self, directory: Any) -> None:
    """Writes the tokenizer's own files, for `tokens.load` and others."""
    self._hf.save_pretrained(save_directory=str(directory))

  def _turn(self, messages, ids, turn) -> tuple[int, int]:
    """Where a turn lies in ids, by rendering what comes before and with it."""
    before = self._render(messages[:turn], header=True)[0] if turn else []
    upto = self._render(messages[: turn + 1], header=False)[0]
    a, b = len(before), len(upto)
    if ids[:a] != before or ids[:b] != upto or b <= a:
      raise UserError(
        f"the chat template of {self.name} renders the messages before"
        f" message {turn} differently once it is added",
        "the assistant's tokens cannot be told from the rest by comparison",
        "put {% generation %} around the assistant's content in the template",
      )
    return a, b

  def _render(self, messages, header: bool):
    """Template to (ids, mask or None)."""
    import jinja2

    if not self.template:
      raise no_template(self.name)
    marks = not header and "generation" in _tags(self.template)
    try:
      out = self._hf.apply_chat_template(
        conversation=[dict(m) for m in messages],
        chat_template=self.template,
        add_generation_prompt=header,
        continue_final_message=False,
        tokenize=True,
        padding=False,
        truncation=False,
        return_dict=True,
        return_assistant_tokens_mask=marks,
      )
    except (
      jinja2.TemplateError,
      ArithmeticError,
      TypeError,
      ValueError,
    ) as error:
      roles = [m["role"] for m in messages]
      raise UserError(
        f"the chat template of {self.name} refused roles {roles}:"
        f" {values.said(error)}",
        "templates accept certain roles in a certain order only",
        "change the messages to the order that the template expects",
      ) from error
    ids = self._one_bos([int(i) for i in out["input_ids"]], "the chat")
    mask = [bool(m) for m in out["assistant_masks"]] if marks else None
    return ids, mask

  def _one_bos(self, ids: list[int], text: str) -> list[int]:
    b = self.bos_id
    if b is not None and b not in self.eos_ids and ids[:2] == [b, b]:
      raise UserError(
        f"{head(text)} begins with two bos ids ({b}) in {self.name}",
        "the text or the template writes bos and the tokenizer adds another;"
        " models answer such prompts worse",
        "take the bos token out of the text or the template",
      )
    return ids


def check_messages(messages: Any) -> None:
  """Refuses what is not a list of {"role": str, "content": str}.

  Raises:
    UserError: says which message is wrong and how.
  """
  why = "chat templates read role and content of each message"
  fix = 'give [{"role": "user", "content": "..."}, ...]'
  if not isinstance(messages, (list, tuple)) or not messages:
    raise UserError(f"messages are {head(messages)}", why, fix)
  for i, message in enumerate(messages):
    if not isinstance(message, dict):
      kind = type(message).__name__
      raise UserError(f"message {i} is a {kind}, not a dict", why, fix)
    for key in ("role", "content"):
      if not isinstance(message.get(key), str):
        got = head(message[key]) if key in message else "missing"
        raise UserError(f"{key!r} of message {i} is {got}", why, fix)


def no_template(name: str) -> UserError:
  """The error of chat messages without a template."""
  return UserError(
    f"tokenizer {name} has no chat template",
    "chat messages cannot be turned into ids without one",
    "use a chat model's tokenizer, or give prompts as strings",
  )


def head(value: Any, size: int = 60) -> str:
  """The start of a value's repr, for messages."""
  text = repr(value)
  return text if len(text) <= size else text[: size - 3] + "..."


def _runs(mask: Sequence[bool]) -> list[tuple[int, int]]:
  """Half-open spans of true values."""
  edges = np.flatnonzero(np.diff(np.r_[0, np.asarray(mask, np.int8), 0]))
  return [(int(a), int(b)) for a, b in edges.reshape(-1, 2)]


def _tags(template: str) -> set[str]:
  """Names of the block tags of a template."""
  parts = template.split("{%")[1:]
  words = [p.lstrip("-+ \n\t").split(None, 1)[:1] for p in parts]
  return {w[0].rstrip("-%}") for w in words if w}
