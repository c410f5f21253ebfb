"""The scenarios that come with limbeck, as TOML files."""
