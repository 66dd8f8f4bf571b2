"""The wires. Adding an API is one module and its row in ``router.app``'s table."""
