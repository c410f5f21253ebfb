"""Everything that crosses the wire, and what it means: messages, codec, the arithmetic of a plan's privacy cost."""
