"""The command line: `esper demo`, `inspect`, `checkpoints`, `verify`, `rollback`, `config`."""
