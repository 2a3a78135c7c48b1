"""A trained model as files that transformers, vLLM and SGLang read. Nothing here imports them.

No source below this folder is part of the core whose version makes a trial's identity.
"""
