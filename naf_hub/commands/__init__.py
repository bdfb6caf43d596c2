"""The command line. Nothing outside this folder imports it."""
