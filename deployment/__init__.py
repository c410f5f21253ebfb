"""What sets a federation up and watches it: keys, ready folders, the doctor, status, the live page, plan commands.

What belongs here: tools for the people who operate a site or the coordinator. It is not part of the protocol, and a run
does not need it. It may use both sides and everything below them.
"""
