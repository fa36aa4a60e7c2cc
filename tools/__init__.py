"""The command line, benchmarks and reports built on passel."""
