"""What sets a federation up and watches it: keys, ready folders, a doctor, status and a live page. No part of the protocol."""
