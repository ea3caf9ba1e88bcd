"""Irregular forms of English words, which ROUGE 1.5.5 puts before its stemmer.

ROUGE looks words up in WordNet's lists of exceptions and takes the base form as
the stem, unstemmed: "tried" is "try", and "tries" is "tri". The table here has
the common irregular verbs, nouns and adjectives; `read` takes WordNet's own
lists where they are at hand (measured in docs/verifiers.md).
"""

from __future__ import annotations

import functools
import os
import pathlib
from collections.abc import Mapping

from rlreward.errors import UserError

# A base and its irregular forms, up to the semicolon.
_FORMS = """
analysis analyses; arise arose arisen; awake awoke awoken; bad worse worst;
be been were; bear bore born borne; beat beaten; become became;
begin began begun beginning; bend bent; bet betting; bind bound; bite bitten;
bleed bled; blow blew blown; break broke broken; breed bred; bring brought;
build built; burn burnt; buy bought; calf calves; catch caught;
child children; choose chose chosen; cling clung; come came; creep crept;
crisis crises; criterion criteria; datum data; deal dealt;
dial dialled dialling; die dying; dig dug; do did done; draw drew drawn;
dream dreamt; drink drank drunk; drive drove driven; dwell dwelt; eat eaten;
elf elves; fall fell fallen; far farther further; feel felt; fight fought;
find found; flee fled; fling flung; fly flew flown; foot feet;
forbid forbade forbidden; foresee foresaw foreseen; forget forgot forgotten;
forgive forgave forgiven; forgo forgone; forsake forsook forsaken;
freeze froze frozen; fuel fuelled fuelling; get gotten; give gave given;
go gone went; goose geese; grind ground; grow grew grown; half halves;
hang hung; hear heard; hide hidden; hold held; hypothesis hypotheses;
kneel knelt; knife knives; know knew known; lay laid; leaf leaves; leap leapt;
learn learnt; leave left; lend lent; lie lying lain; life lives; loaf loaves;
lose lost; make made; mean meant; medium media; mislead misled;
mistake mistook mistaken; misunderstand misunderstood; mouse mice; mow mown;
nucleus nuclei; outdo outdid outdone; outshine outshone; overcome overcame;
overdo overdone; oversee oversaw overseen; overtake overtook overtaken;
overthrow overthrew overthrown; pay paid; phenomenon phenomena; prove proven;
rebuild rebuilt; repay repaid; rewrite rewrote rewritten; ride rode ridden;
ring rang rung; rise rose risen; say said; scarf scarves; see seen;
seek sought; self selves; sell sold; send sent; sew sewn; shake shook shaken;
sheaf sheaves; shelf shelves; shine shone; shoot shot; show shown;
shrink shrank shrunk; sing sang sung; sink sank sunk; slay slew slain;
sleep slept; slide slid; sling slung; sow sown; speak spoke spoken;
speed sped; spend spent; spill spilt; spin spun; spit spat; spoil spoilt;
spring sprang sprung; stand stood; steal stole stolen; stick stuck;
stimulus stimuli; sting stung; stink stank stunk; strike struck;
string strung; strive strove striven; swear swore sworn; sweep swept;
swell swollen; swim swam swum; swing swung; take took taken; teach taught;
tear tore torn; tell told; thesis theses; thief thieves; think thought;
throw threw thrown; tie tying; tooth teeth; tread trod trodden;
undergo underwent undergone; understand understood;
undertake undertook undertaken; undo undone; uphold upheld; vie vying;
wake woke woken; wear wore worn; weave wove woven; weep wept;
well better best; wife wives; win won; wind wound;
withdraw withdrew withdrawn; withhold withheld; withstand withstood;
wolf wolves; write wrote written
"""
_Y = """angry bloody busy cloudy costly crazy deadly dirty dry early easy
friendly funny happy healthy heavy hungry lazy lonely lovely lucky
messy nasty noisy pretty ready risky scary silly sleepy sunny tidy
tiny ugly wealthy"""
_DOUBLED = "big fat fit flat hot mad red sad slim thin wet"


@functools.cache
def table() -> Mapping[str, str]:
  """{irregular form: base} of words of more than three letters."""
  out: dict[str, str] = {}
  for entry in _FORMS.split(";"):
    base, *forms = entry.split()
    out |= dict.fromkeys(forms, base)
  for base in _Y.split():
    out |= {base[:-1] + end: base for end in ("ier", "iest")}
  for base in _DOUBLED.split():
    out |= {base + base[-1] + end: base for end in ("er", "est")}
  return out


def base(word: str, listed: Mapping[str, str] | None = None) -> str | None:
  """The base form of an irregular word, None of a regular one.

  Args:
    word: lower case.
    listed: exceptions that are used in place of the table, see `read`.
  """
  if listed is not None:
    return listed.get(word)
  found = table().get(word)
  # WordNet lists each verb in -y after a consonant: "tried", but not "died".
  if found is None and len(word) > 4 and word.endswith("ied"):
    return word[:-3] + "y"
  return found


def read(folder: str | os.PathLike[str]) -> dict[str, str]:
  """WordNet's own exceptions.

  Args:
    folder: with `adj.exc`, `adv.exc`, `noun.exc` and `verb.exc`, lines of a
      form and its base forms, of which ROUGE takes the first.

  Raises:
    UserError: one of the files is not there.
  """
  out: dict[str, str] = {}
  for name in ("adj", "adv", "noun", "verb"):
    path = pathlib.Path(folder) / f"{name}.exc"
    if not path.is_file():
      raise UserError(
        f"there is no {path}",
        "WordNet has four lists of exceptions, and ROUGE reads all of them",
        "give the folder `dict` of a WordNet",
      )
    for line in path.read_text(encoding="utf-8").splitlines():
      form, *bases = line.split()
      if bases:
        out.setdefault(form, bases[0])
  return out
