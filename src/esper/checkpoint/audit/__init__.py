"""The audit of a run: what was decided and done, sealed, in order, and anchored in every checkpoint."""

from esper.checkpoint.audit.audit import Audit, open_audit
from esper.checkpoint.audit.reading import AuditReader, StoredEntry

__all__ = ["Audit", "AuditReader", "StoredEntry", "open_audit"]
