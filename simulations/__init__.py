"""The fleet in virtual time: devices, links, the fabric that calls them, and reports."""
