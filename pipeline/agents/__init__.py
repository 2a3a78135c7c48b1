"""Sweeps and their answers for agents, over MCP, the Model Context Protocol."""
