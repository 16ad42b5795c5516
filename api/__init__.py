"""The HTTP side of Quartet. Knows the services of rag and backends, nothing of the page."""
