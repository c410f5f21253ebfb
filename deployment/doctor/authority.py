"""The check of a certificate authority."""

from __future__ import annotations

from pathlib import Path

from limbeck.base.findings import Findings, ok, warn
from limbeck.deployment import certificates, keys
from limbeck.deployment.doctor.checks import Examination, Side, check
from limbeck.deployment.doctor.shared import EXPIRES_SOON_DAYS


@check("authority")
def authority(folder: Path, examination: Examination) -> Findings:
    """Whether the authority has its key, and which of the certificates that it issued end soon."""
    opened, now = keys.Authority(folder), examination.now
    certificates.check_key(certificates.read_key(folder / "ca.key"), opened.certificate)
    issued = opened.issued(now)
    newest = {each.name: each for each in issued if each.state is keys.State.VALID}
    until = f"{opened.certificate.not_valid_after_utc:%Y-%m-%d}"
    yield ok(f"{len(issued)} certificates made, {len(newest)} names with a valid one; the authority itself until {until}")
    for each in newest.values():
        if keys.expires_within(each.certificate, EXPIRES_SOON_DAYS, now):
            yield warn(
                f"{each.name!r} ends on {each.certificate.not_valid_after_utc:%Y-%m-%d}.", f"limbeck keys rotate {each.name}"
            )


def _open(folder: Path) -> Path:
    return folder


SIDE = Side(owns=lambda folder: (folder / "issued").is_dir(), open=_open, checks=(authority,))
