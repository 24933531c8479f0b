"""What a network is made of: units that can be removed, the tensor axes they run through, their cost."""

from esper.anatomy.structure import Anatomy, Group, Kind, Member, Role, TensorInfo, Term

__all__ = ["Anatomy", "Group", "Kind", "Member", "Role", "TensorInfo", "Term"]
