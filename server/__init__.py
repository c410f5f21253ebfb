"""The coordinator's side: sees only what `limbeck.protos` decodes."""
