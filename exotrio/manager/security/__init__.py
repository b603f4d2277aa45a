"""Who may come in, and the keys that protect what is stored.

==================  ===============================================================================
``access``          ASGI middleware: Host header, API key, request id, slower refusals for guessing
``api_key``         which API key a server asks for
``encryption``      the keys for secrets at rest, and exchanging them (``store.cipher`` encrypts with them)
``secret_files``    files beside the database that only their owner can read
==================  ===============================================================================

From outside all of them may be imported.

``tests/security/points.py`` lists each promise with the tests that hold us to it.
"""
