"""What an owner should know of their own records before a plan is charged for: `limbeck site check`.

It reads everything, and nothing of it leaves the terminal: it sends nothing, charges nothing and writes nothing. So it may do what a site
that answers a coordinator must not, and look at rows to say what is wrong with them. Its findings are for people: nothing that a site
answers depends on one.
"""

from __future__ import annotations

from limbeck.base import findings
from limbeck.client.examination.offered import of_plan, verdict
from limbeck.client.examination.report import Report
from limbeck.client.examination.rows import of_records
from limbeck.client.examination.structure import structure
from limbeck.client.site import Site
from limbeck.protos.messages import Offer

__all__ = ["Report", "examine", "structure"]


def examine(site: Site, offer: Offer | None = None) -> Report:
    """Everything about a site's records, and whether it would accept a plan; see the module.

    offer: the plan with its author; without one, the classes are those that the settings name, or that the labels show.
    """
    report = Report(site=site.name, plan=offer.plan.name if offer is not None else None)
    report.findings.extend(of_records(site, offer.plan if offer is not None else None, report))
    if offer is not None:
        of_offer = list(of_plan(site, offer, report))
        report.accepted = findings.healthy(of_offer) and not any(
            finding.outcome is findings.Outcome.FAIL and finding.check == "source" for finding in report.findings
        )
        report.findings.extend(of_offer)
        report.findings.append(verdict(report))
    return report
