"""What crosses the wire, and only that: the schemas, the codecs, packing, signing and TLS.

What belongs here: *.proto and the code generated from them, messages and frames as frozen values, and the codecs that
turn them into bytes and back. Only the codecs touch generated code; they check everything, so that nobody checks again.
It may use plans, inputs, operators and base. It knows neither a site nor the coordinator: both import it.

Tags: [F] another paper, which is named; [D] derived or measured here, with a test.
"""
