"""Tests of `esper.oona`."""
