"""Each figure that README quotes, as a command."""
