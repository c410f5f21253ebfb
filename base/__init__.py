"""What everything else stands on: errors, checks of values, durable files, strict settings, progress.

What belongs here: small modules that every folder may need and that know nothing of limbeck's purpose. They use the
standard library, pydantic and rich only, and import no other folder.
"""
