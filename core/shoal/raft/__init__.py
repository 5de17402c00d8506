"""Consensus, sans I/O: the vocabulary of the replicated log. The protocol itself comes with clusters."""
