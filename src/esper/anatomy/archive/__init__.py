"""Stored programs: written so that nobody has to be trusted when they are read, and read without trust."""

from esper.anatomy.archive.program import read_module, read_program, write_program

__all__ = ["read_module", "read_program", "write_program"]
