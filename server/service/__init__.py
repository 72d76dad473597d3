"""The coordinator's side of the device service: who may call, what is kept, what is refused.

Nothing here imports flwr but `server.service.grid`, which makes a Flower Grid of it.
"""
