"""Models that are not evenload's own, behind the contract.

    attached     a module whose routers are given the bias and tell what they chose
    counted      what such a module is, found without memory for its weights
    huggingface  modules of the transformers library, from a folder
    factory      modules that a function of the user builds

The own model needs none of these files, so they are no part of the identity of its trials.
"""
