"""The error tree: every error carries its exit code and its HTTP status.

HeadwayError                     1  500
├── UsageError                   2  400   the caller's words are off: an option, a config key
│   └── ConfigError              2  400   a config file: names the path of the key
├── MissingDependencyError       1  500   an optional extra is not installed
├── DataError                    1  400   a data set that cannot be read or does not fit its schema
├── CaptureError                 1  500   a model that cannot be captured or lowered
├── BundleError                  1  500   a bundle that is damaged or does not reproduce
├── NotProvenError               3  500   a guard or an SLA that was not met
├── QueryError                   1  400   a query that does not fit the model's schema
│   └── TooLargeError            1  413
├── NotFoundError                1  404
├── MethodNotAllowedError        1  405
├── UnsupportedMediaError        1  415
├── NotImplementedByUsError      1  501
├── OverloadedError              1  503   carries retry_after_s
├── NotReadyError                1  503
└── DeadlineError                1  504
"""

from __future__ import annotations

from typing import ClassVar


class HeadwayError(Exception):
    """Anything Headway refuses or fails at, with a message that names the remedy."""

    exit_code: ClassVar[int] = 1
    status: ClassVar[int] = 500


class UsageError(HeadwayError):
    """The caller asked for something that does not exist or does not fit."""

    exit_code = 2
    status = 400


class ConfigError(UsageError):
    """A config file has a wrong key or value; the message names its path."""


class MissingDependencyError(HeadwayError):
    """An optional extra is needed and not installed."""

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        super().__init__(
            f"{purpose} needs the package {package!r}, which is not installed; "
            f"install it with: pip install 'headway[{extra}]'"
        )


class DataError(HeadwayError):
    """A data set cannot be read, or its content does not fit what was declared."""

    status = 400


class CaptureError(HeadwayError):
    """A model cannot be captured or lowered; the message names the place."""


class BundleError(HeadwayError):
    """A bundle is damaged, incomplete, too new, or does not reproduce its golden rows."""


class NotProvenError(HeadwayError):
    """A guard did not pass or an SLA was not met."""

    exit_code = 3


class QueryError(HeadwayError):
    """A query does not fit the model: the message names the feature."""

    status = 400


class TooLargeError(QueryError):
    """A query or its body is over a stated limit."""

    status = 413


class NotFoundError(HeadwayError):
    """No such model, version or route."""

    status = 404


class MethodNotAllowedError(HeadwayError):
    """The route exists, the verb does not."""

    status = 405


class UnsupportedMediaError(HeadwayError):
    """The body has a type or an encoding that is not read here."""

    status = 415


class NotImplementedByUsError(HeadwayError):
    """A part of a protocol that Headway does not offer."""

    status = 501


class OverloadedError(HeadwayError):
    """The query was refused at the door because it could not have been answered in time."""

    status = 503

    def __init__(self, message: str, retry_after_s: float) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class NotReadyError(HeadwayError):
    """The server is starting or draining."""

    status = 503


class DeadlineError(HeadwayError):
    """The query's time ran out before its scores were there."""

    status = 504
