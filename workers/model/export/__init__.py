"""Writes a trained model as files for transformers, vLLM and SGLang, without importing them.

The identity of a trial does not depend on the sources in this folder.
"""
