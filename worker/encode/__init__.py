"""Texts to embeddings, behind one small port; importing it loads no model and no torch."""

from worker.encode.base import Encoder, Floats
from worker.encode.batch import AsyncEncoder
from worker.encode.cache import CachedEncoder
from worker.encode.sentence import SentenceEncoder, load

__all__ = ["AsyncEncoder", "CachedEncoder", "Encoder", "Floats", "SentenceEncoder", "load"]
