"""The device client of the device service: one small process that waits, and a child that trains."""
