"""Starting processes in tests."""

# A shell starts what runs in its background deaf to Ctrl-C, and so all that comes of it. Code that is to
# hear it begins with this.
HEAR_CTRL_C = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
