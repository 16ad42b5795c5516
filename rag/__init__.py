"""Documents: from files to passages, and from a question to an answer that names its sources. Knows no web."""
