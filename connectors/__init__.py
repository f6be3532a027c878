"""Connectors: sources and sinks. Importing one gives its description only; client libraries load when a service runs it."""
