"""PILOT Router: a streaming worker that decides, query by query, which LLM answers."""
