"""Priors from data that exist before the first query: tables of scores, battles, plain texts."""
