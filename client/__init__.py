"""On the device: trace, plan, execute and train within a RAM budget, and join a federation."""
