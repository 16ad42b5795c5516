"""The Gradio page: two tabs and a model panel over the services; knows no HTTP routes of ours and no engine."""
