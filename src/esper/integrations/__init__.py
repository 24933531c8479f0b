"""Callbacks for other people's training loops; each is imported by its own name, with the library it is for.

`from esper.integrations.transformers import EsperCallback` and `from esper.integrations.lightning import
EsperCallback` need the extra of that name; this package alone imports neither.
"""
