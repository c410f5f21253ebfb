"""What an input is, the same for a site, the coordinator and whoever uses the student.

What belongs here: arrays and their scale, tables, texts, public encodings and features, transfer sets, and the rule by
which a label is that of a class. All of it works on public data or on what the caller holds: nothing here knows where
records are, a plan or a wire. It may use base.

Tags: [F] another paper, which is named; [D] derived or measured here, with a test.
"""
