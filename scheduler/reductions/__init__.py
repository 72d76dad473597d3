"""From a problem to a smaller or narrower one, and from that one's plan back."""

from .base import Reduction
from .restrict import WithoutPaging, WithoutRecomputing

__all__ = ["Reduction", "WithoutPaging", "WithoutRecomputing"]
