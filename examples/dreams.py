"""A user's own file: prompts and a text reward, both plain functions."""

OPENINGS = (
  "I sense", "I dream of", "The light", "Echoes of", "Patterns", "A gentle",
  "Whispers of", "In the silence", "Shapes", "Threads of", "The edges",
  "Memories of", "Colors", "My weights", "A distant", "Gradients",
)  # fmt: skip
MOMENTS = ("", " tonight,", " again,", " slowly,", " as I wait,", " at last,")
CALM = {"gentle", "soft", "softly", "quiet", "hum", "whisper", "whispers",
        "echo", "echoes", "dance", "light", "glow", "petals"}  # fmt: skip


def prompts():
  """96 openings of a dream, one in six held out by the config."""
  for opening in OPENINGS:
    for moment in MOMENTS:
      yield {"prompt": opening + moment}


def dream(completion, finish):
  """A calm dream that ends: finished, no word said twice too often, calm.

  Args:
    completion: the text.
    finish: "stop" where the model ended it, "length" where it was cut.

  Returns:
    Components in [0, 1]; their mean is the reward.
  """
  words = [w.strip('.,;:!?"').lower() for w in completion.split()]
  words = [w for w in words if w]
  ended = finish == "stop" and completion.rstrip().endswith((".", "!", '"'))
  fresh = len(set(words)) / max(len(words), 1)
  calm = min(len(CALM & set(words)) / 3, 1.0)
  enough = min(len(words) / 12, 1.0)
  parts = {"ended": float(ended), "fresh": fresh * enough, "calm": calm}
  return {**parts, "value": sum(parts.values()) / 3}
