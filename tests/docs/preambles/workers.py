"""A module of the reader's with a function that workers call."""

from pathlib import Path

Path("my_module.py").write_text("def score(shard):\n    return sum(shard)\n")
shards = [[1, 2, 3], [4, 5], [6]]
