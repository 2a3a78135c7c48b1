"""The room that computes: the MoE core in torch and the Ray actors that host it."""
