"""What can go wrong between a repository and a site. The type tells the caller what to do.

SitestreamError
├── Unavailable
│   └── Unreachable         the registry does not answer: try again later
├── ConfigError
│   ├── Unauthorised        it wants other credentials
│   └── NotFound            it has no such blob, tag or name
├── LimitExceeded
│   ├── DiskFull            free some space, then the same call goes on
│   └── TooLarge            more than is ever read
├── StateError
│   ├── BrokenLayout        a folder or file that is no OCI image layout: save it anew
│   └── BrokenStore         the site's trust store: set it up again, by hand
└── Untrusted               must not be used, whatever else is said for it
    ├── WrongDigest         other content than was named
    ├── WrongLength         more or less of it than was named
    ├── Malformed           no statement at all
    ├── ForgedSignature     a key that counts did not sign this
    ├── UnknownKey          signed by keys that do not count (any more)
    ├── BelowThreshold      signed by too few
    ├── Expired             was good once: an old copy, or nobody has signed for long
    ├── Replayed            older than what was seen before
    ├── WrongTarget         speaks of another document
    ├── RootSkipped         a root that does not follow the one that is trusted
    └── WrongClock          this machine's clock cannot be right, so nothing can be said about expiry
"""

from __future__ import annotations

from pipelines.errors import ConfigError, LimitExceeded, SitestreamError, StateError, Unavailable


class Unreachable(Unavailable):
    """The registry does not answer, or not properly."""


class Unauthorised(ConfigError):
    """The registry does not let us in, or not do this."""


class NotFound(ConfigError):
    """The repository does not have it."""


class DiskFull(LimitExceeded):
    """There is no space left on this machine."""


class TooLarge(LimitExceeded):
    """It is larger than such a thing may be."""


class BrokenLayout(StateError):
    """A folder or file that is no OCI image layout, or a damaged one."""


class BrokenStore(StateError):
    """The trust store is missing or damaged; until it is set up anew nothing is accepted."""


class Untrusted(SitestreamError):
    """It must not be used."""


class WrongDigest(Untrusted):
    """Its content is not what its digest says."""


class WrongLength(Untrusted):
    """It is longer or shorter than was said."""


class Malformed(Untrusted):
    """It is not signed metadata of the kind expected."""


class ForgedSignature(Untrusted):
    """A signature under the name of a known key was not made by it."""


class UnknownKey(Untrusted):
    """None of the keys that signed it counts for that."""


class BelowThreshold(Untrusted):
    """Fewer keys signed it than must."""


class Expired(Untrusted):
    """It is past its date."""


class Replayed(Untrusted):
    """A newer version was seen before."""


class WrongTarget(Untrusted):
    """It is a statement about another document."""


class RootSkipped(Untrusted):
    """A root whose version does not follow the trusted one."""


class WrongClock(Untrusted):
    """This machine's clock stands before times that have certainly passed."""
