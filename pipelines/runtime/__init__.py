"""The only asyncio of this package: consume, drive tasks, commit, recover, serve metrics."""
