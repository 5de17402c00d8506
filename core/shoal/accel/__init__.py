"""Accelerated primitives: one interface each, pure Python always there, a native backend where one is importable.

Both give the same values, byte for byte: what a board has installed never changes an answer.
"""
