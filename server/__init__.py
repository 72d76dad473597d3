"""The coordinator: rounds, cohorts, checks of updates, aggregation, and its Flower ServerApp.

`import server` loads nothing heavy; `server.rounds`, `server.strategy` and `server.app` load flwr.
"""
