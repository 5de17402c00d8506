"""The use cases of a store, and the ports they need."""
