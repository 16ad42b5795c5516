"""How each engine comes to be: a child process (transformers, vLLM), a URL (remote), or no weights at all (quote)."""
