"""Every error this project raises on purpose. The type tells the caller what to do.

SitestreamError
├── PlanError          the program is wrong: mend the pipeline file
├── ConfigError        a site file, a setting or an option is wrong: mend the file
├── BadData            a reading or frame cannot be used: dead-letter it and go on
├── StateError         stored state cannot be used: restore another copy or reset
├── LimitExceeded      a named limit was reached: raise it or shed load
└── Unavailable        a broker, engine, device or store is not there: try again later
    └── NotConnected   a device link is down: reconnect with back-off
"""

from __future__ import annotations


class SitestreamError(Exception):
    """Base of all errors of this project; its text names the thing, the place and the cure."""


class PlanError(SitestreamError):
    """The pipeline as written cannot be run."""


class ConfigError(SitestreamError):
    """A configuration file, setting or option is wrong."""


class BadData(SitestreamError):
    """One reading or frame cannot be used. `reason` is a short word for metrics and dead letters."""

    def __init__(self, message: str, *, reason: str = "malformed") -> None:
        super().__init__(message)
        self.reason = reason


class StateError(SitestreamError):
    """Stored state is damaged or belongs to another program."""


class LimitExceeded(SitestreamError):
    """A limit that has a name was reached."""


class Unavailable(SitestreamError):
    """A broker, engine, device or store does not answer; the same call may succeed later."""


class NotConnected(Unavailable):
    """The link to a device or its gateway is down."""
