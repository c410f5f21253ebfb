"""What everything stands on: errors, checks of values, durable files, strict settings, progress. It knows nothing of limbeck's purpose."""
