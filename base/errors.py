"""limbeck's tree of errors. Every message names the thing, its value and what was expected.

LimbeckError
├── SettingError        a scenario, site file or option that is invalid
├── DataError           a data file that is missing, corrupt or of the wrong shape
├── WireError           bytes from a peer that are not a valid message
├── PolicyError         a plan that a site's policy forbids
├── BudgetError         a privacy budget that does not allow a charge
├── LedgerError         a ledger file that cannot be trusted or read
├── TranscriptError     a transcript that cannot be trusted, read or written
├── CertificateError    a certificate that cannot be trusted, or does not fit its key
├── TeacherError        a black-box teacher that does not answer, or not as required
├── TooFewClients       fewer clients than the plan's minimum are left
└── RunError            a run folder that cannot be used as requested
"""

from __future__ import annotations


class LimbeckError(Exception):
    """Base of all errors that limbeck raises for its users."""


class SettingError(LimbeckError, ValueError):
    """An invalid setting."""


class DataError(LimbeckError):
    """A data file that is missing, corrupt or of the wrong shape."""


class WireError(LimbeckError):
    """Bytes from a peer that are not a valid message at this point."""


class PolicyError(LimbeckError):
    """A plan that a site's policy forbids."""


class BudgetError(LimbeckError):
    """A charge that the privacy budget does not allow; nothing was charged."""


class LedgerError(LimbeckError):
    """A ledger that cannot be trusted or read."""


class TranscriptError(LimbeckError):
    """A transcript that cannot be trusted, read or written; what it does not contain is not sent."""


class CertificateError(LimbeckError):
    """A certificate that cannot be trusted at this time, or that does not fit its key."""


class TeacherError(LimbeckError):
    """A black-box teacher that does not answer, or not as required."""


class TooFewClients(LimbeckError):
    """Fewer clients than the plan's minimum are left; the run can be resumed."""


class RunError(LimbeckError):
    """A run folder that cannot be used as requested."""
