"""Decides and remembers: what to run, where it stands, what came out. No torch, no ray."""
