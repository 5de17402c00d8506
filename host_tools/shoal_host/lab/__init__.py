"""`shoal lab`: real nodes, faults, a workload, and judges of what clients saw."""
