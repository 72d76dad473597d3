"""The long-lived coordinator around the round engine: its journal, its fabrics, and what people watch."""
