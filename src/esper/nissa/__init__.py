"""Telemetry: what a run did, as values that can be stored, shown and compared."""
