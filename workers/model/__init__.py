"""A DeepSeekMoE language model that takes the biases as an argument and returns the counts."""
