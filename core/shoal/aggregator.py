"""The aggregator: `foldl`, `foldr`, `finalize`, `aggregate`, and the tags `Sum` and `Overwrite`."""

from __future__ import annotations

from shoal.model.aggregates import aggregate, finalize, foldl, foldr
from shoal.tagged import Overwrite, Sum

__all__ = ["Overwrite", "Sum", "aggregate", "finalize", "foldl", "foldr"]
