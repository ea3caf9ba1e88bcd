"""One error form for bad input: what was wrong, why it matters, the fix."""


class UserError(ValueError):
  """Input that cannot work, found before anything compiles.

  Args:
    what: what was wrong, with the actual values.
    why: why it matters.
    fix: the smallest change that fixes it.
  """

  def __init__(self, what: str, why: str, fix: str):
    super().__init__(f"{what}\n  why: {why}\n  fix: {fix}")
    self.what, self.why, self.fix = what, why, fix
