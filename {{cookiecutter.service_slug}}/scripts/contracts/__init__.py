"""Contracts between services: what may change in them, and clients made from them."""
