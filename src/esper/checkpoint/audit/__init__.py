"""The audit of a run: what was decided and done, sealed, in order, and anchored in every checkpoint."""

from esper.checkpoint.audit.audit import Audit, open_audit
from esper.checkpoint.audit.reading import AuditReader, StoredEntry
from esper.checkpoint.audit.verify import Tampering

__all__ = ["Audit", "AuditReader", "StoredEntry", "Tampering", "open_audit"]
