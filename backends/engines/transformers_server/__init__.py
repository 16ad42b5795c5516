"""The transformers engine: a process of its own that serves one model over the OpenAI chat protocol on loopback.

Built on the library's continuous batching. Knows nothing of the app that started it.
"""
