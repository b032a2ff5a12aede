"""Follow a job to its end: a line for each change, and a report when nothing changes for long.

Nobody shall have to guess why nothing happens.  Where the job is looked at, in a cluster or in a
run on this machine, is the caller's business.
"""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Final

from deepspeed_operator.cli.ends import Denied, TooLate, Unavailable
from deepspeed_operator.cli.picture import Job, describe, is_true

POLL_S: Final = 0.5
QUIET_S: Final = 60.0
MOST_FAILED_LOOKS: Final = 120
"""A minute without an answer: longer than an API server takes to be replaced."""


@dataclass(slots=True)
class Follower:
    """Watches one job through `look`."""

    look: Callable[[], Job]
    """Reads the job as it is now."""
    say: Callable[[str], None]
    """Prints a line."""
    report: Callable[[Job], Iterable[str]]
    """What one would look for when nothing happens."""
    deadline_s: float | None = None
    afterwards: str = "it goes on"
    """What becomes of the job after the deadline."""
    quiet_s: float = QUIET_S
    poll_s: float = POLL_S
    _began: float = field(default_factory=time.monotonic)

    def follow(self) -> Job:
        """Print what happens until the job is finished, and return it as it is then.

        Raises:
            TooLate: the deadline passed, after a report.
            Refused: the job is not there any more.
            Unavailable: the API server did not answer for long.
        """
        shown, changed_at = "", time.monotonic()
        while True:
            job, now = self._look(), time.monotonic()
            line = describe(job)
            if line != shown:
                self._tell(line)
                shown, changed_at = line, now
            if is_true(job, "Finished"):
                return job
            if self.deadline_s is not None and now - self._began > self.deadline_s:
                self._report(job)
                raise TooLate(
                    f"the job did not finish within {self.deadline_s:.0f} s; {self.afterwards}"
                )
            if now - changed_at > self.quiet_s:
                self._tell(f"nothing new for {self.quiet_s:.0f} s; this is how things are:")
                self._report(job)
                changed_at = now
            time.sleep(self.poll_s)

    def _look(self) -> Job:
        """Look; a server that is away for less than a minute does not end the watch."""
        failed = 0
        while True:
            try:
                return self.look()
            except Denied:
                raise
            except Unavailable as error:
                failed += 1
                if failed == 1:
                    self._tell(str(error))
                if failed > MOST_FAILED_LOOKS:
                    raise
                time.sleep(self.poll_s)

    def _tell(self, line: str) -> None:
        self.say(f"[{time.monotonic() - self._began:6.1f}s] {line}")

    def _report(self, job: Job) -> None:
        for line in self.report(job):
            self.say(line)
