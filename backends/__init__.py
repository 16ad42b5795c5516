"""Text generation: models, engines and the switch between them. Knows no web and no documents."""
