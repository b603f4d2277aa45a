"""Access to a state manager, and the keys that protect stored secrets.

==================  ===============================================================================
``access``          ASGI middleware: the Host header of every request, the key of those to the API
``sessions``        sessions of the dashboard, and links that open one
``keys``            the named keys, as one state manager knows them (``engine.keys`` adds and revokes them)
``refusals``        refused requests: lines in the log, and delays for clients that guess the key
``api_key``         which API key a server requires
``encryption``      the keys for secrets at rest, and replacing them (``store.cipher`` encrypts with them)
``secret_files``    files next to the database that only their owner can read
==================  ===============================================================================

The API requires a key in each request (``access.KeyRequired``): the root key, which is the API key that the
server was started with, or a named key, which has scopes (``rules.access``). What they allow is checked where
a route, a page or an action is found. The dashboard requires a session: its ``web.sign_in`` reads that from a
cookie, and its ``web.guard`` checks where forms come from. All modules may be imported from outside.

``tests/mutations/table.txt`` lists each promise with the tests that prove it.
"""
