"""A DeepSeekMoE language model. A bias is an argument of it, counts are a result of it."""
