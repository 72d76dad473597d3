"""The workloads that come with fedpoet."""
