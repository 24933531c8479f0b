"""Analysis of a network on request, without a session."""
