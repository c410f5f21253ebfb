"""The command `limbeck`: assembles what the packages offer."""

# First of all, because gRPC decides when it is loaded which TLS it accepts.
from limbeck.protos import tls as tls
