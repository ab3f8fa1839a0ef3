"""The Kafka shell of the worker: the only package that imports Faust."""
