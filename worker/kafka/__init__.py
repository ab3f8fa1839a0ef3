"""Kafka without Faust: topics, logs read to their end, control topics, dead letters, a local broker."""
