"""Named model dimensions. A spec may override every field of a preset.

Source of the deepseekmoe presets: Wang et al. 2024, arXiv:2408.15664, appendix (dimensions), and
Dai et al. 2024, arXiv:2401.06066 (first FFN dense).
"""

PRESETS: dict[str, dict[str, int | float | str | bool]] = {
    # Trains in seconds on two CPU cores; bytes as tokens.
    "tiny": {
        "vocab_size": 256,
        "num_layers": 3,
        "d_model": 64,
        "num_heads": 2,
        "num_dense_layers": 1,
        "d_dense": 192,
        "num_experts": 16,
        "top_k": 2,
        "num_shared": 1,
        "d_expert": 32,
        "init_std": 0.075,  # 0.6 / sqrt(d_model); the model learns half as fast with 0.02
    },
    # About 30M parameters; trains in an evening on a CPU or in a minute on a GPU.
    "small": {
        "vocab_size": 8192,
        "num_layers": 6,
        "d_model": 256,
        "num_heads": 8,
        "num_dense_layers": 1,
        "d_dense": 768,
        "num_experts": 32,
        "top_k": 4,
        "num_shared": 1,
        "d_expert": 192,
        "init_std": 0.02,
    },
    "deepseekmoe-1b": {
        "vocab_size": 32064,
        "num_layers": 9,
        "d_model": 1024,
        "num_heads": 8,
        "num_dense_layers": 1,
        "d_dense": 2816,
        "num_experts": 64,
        "top_k": 6,
        "num_shared": 2,
        "d_expert": 528,
        "init_std": 0.006,
    },
    "deepseekmoe-3b": {
        "vocab_size": 32064,
        "num_layers": 11,
        "d_model": 1280,
        "num_heads": 10,
        "num_dense_layers": 1,
        "d_dense": 3520,
        "num_experts": 64,
        "top_k": 6,
        "num_shared": 2,
        "d_expert": 880,
        "init_std": 0.006,
    },
}
