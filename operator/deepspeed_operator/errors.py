"""The one tree of errors.  The class decides what happens next; no text is ever matched.

OperatorError
├── InvalidJob          the spec cannot be run: a condition, no retry before it changes
├── ApiError            the API server answered with an error
│   ├── Conflict        409: somebody was faster, start the pass again
│   ├── NotFound        404
│   ├── Denied          401, 403: the operator lacks a right
│   ├── Invalid         400, 422: the server refuses what we wrote
│   └── Throttled       429, 5xx: wait and try again
├── ApiUnreachable      no answer from the API server
└── HeadError           the Ray head of a job
    ├── HeadUnreachable no answer in time
    ├── HeadDenied      401: the token is not the head's
    └── HeadAnswerInvalid  an answer that is too big or not what the contract says
"""


class OperatorError(Exception):
    """Anything that this operator raises on purpose."""


class InvalidJob(OperatorError):
    """The job's spec cannot be run; the message names the field and the way out."""


class ApiError(OperatorError):
    """The API server answered with an error status."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"{status}: {message}")
        self.status = status
        self.message = message


class Conflict(ApiError):
    """Somebody else changed or made the object first (409)."""


class NotFound(ApiError):
    """The object or its kind does not exist (404)."""


class Denied(ApiError):
    """The operator's account may not do this (401, 403)."""


class Invalid(ApiError):
    """The server refuses what was written (400, 422)."""


class Throttled(ApiError):
    """The server is overloaded or failing (429, 5xx); `retry_after_s` is its own wish."""

    def __init__(self, status: int, message: str, retry_after_s: float | None = None) -> None:
        super().__init__(status, message)
        self.retry_after_s = retry_after_s


class ApiUnreachable(OperatorError):
    """No answer from the API server."""


class HeadError(OperatorError):
    """The Ray head of one job; never a reason to hold up another job."""


class HeadUnreachable(HeadError):
    """The head did not answer in time, or not at all."""


class HeadDenied(HeadError):
    """The head refuses the token (401, 403)."""


class HeadAnswerInvalid(HeadError):
    """The head's answer breaks the contract: too big, not JSON, or the wrong shape."""
