"""Asks a service of the user's to run a program: level "remote".

POST of {"source", "entry", "test", "prompt", "seconds", "memory_mb"} as JSON;
the answer is {"status": "ok" | "wrong" | "timeout" | "error", "detail": ".."}.
Nothing is asked of any address that the user did not name.
"""

from __future__ import annotations

import json
import os
import urllib.error
import urllib.parse
import urllib.request
from typing import TYPE_CHECKING

from rlreward.errors import UserError
from rlreward.rewards.workers import STATUSES, Outcome

if TYPE_CHECKING:
  from rlreward.rewards.sandbox import Job, Level

_MOST = 1 << 20  # bytes of an answer


def check_url(url: str) -> None:
  """Raises a UserError where a URL cannot be asked.

  Args:
    url: of the service.
  """
  parts = urllib.parse.urlsplit(url)
  if parts.scheme not in ("http", "https") or not parts.hostname:
    raise UserError(
      f"execution at level 'remote' with url={url!r}",
      "programs are sent to a service that you name, and to no other",
      "give url='https://host/path', or use another level",
    )
  if os.environ.get("RLREWARD_OFFLINE") == "1":
    raise UserError(
      f"execution at {url!r} while RLREWARD_OFFLINE=1",
      "offline means that nothing is sent",
      "unset RLREWARD_OFFLINE, or use level='rlimit' or 'container'",
    )


class _NoRedirect(urllib.request.HTTPRedirectHandler):
  def redirect_request(self, *args, **kwargs):
    return None


def ask(job: Job, level: Level) -> Outcome:
  """One program, judged by the service.

  Args:
    job: see `sandbox.Job`.
    level: its url, seconds and memory_mb are used.

  Returns:
    The service's verdict; "error" where it gives none, "timeout" where it is
    too late.

  Raises:
    UserError: see `check_url`.
  """
  check_url(level.url)
  task = {**job._asdict(), "seconds": level.seconds}
  task["memory_mb"] = level.memory_mb
  request = urllib.request.Request(
    level.url,
    json.dumps(task).encode(),
    {"Content-Type": "application/json"},
  )
  # No proxy of the environment and no redirect: this address or none.
  opener = urllib.request.build_opener(
    urllib.request.ProxyHandler({}), _NoRedirect()
  )
  try:
    with opener.open(request, timeout=level.seconds + 5) as reply:
      said = json.loads(reply.read(_MOST))
    status, detail = said["status"], str(said.get("detail", ""))
  except TimeoutError:
    return Outcome("timeout", {}, "the service did not answer in time")
  except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
    return Outcome("error", {}, f"the service failed: {error}")
  if status not in STATUSES:
    return Outcome("error", {}, f"the service said {status!r}"[:200])
  return Outcome(status, {}, detail[:300])
