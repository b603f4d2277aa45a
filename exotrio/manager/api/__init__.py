"""The HTTP API: routes that read requests, call use cases and queries, and write replies.

==============  ===================================================================================
``routing``     endpoints marked with their routes, and the application that serves them
``bodies``      reading bodies within limits, large ones in a thread; masking secrets in outcomes
``json``        parsing bodies and path values, replies; every exception as a JSON error
``v0``          ``/v0/...``: what stock runtimes, clients and dashboards call
``native``      ``/exotrio/v1/...``: leases, batches and long polls, for exotrio's own runtime
``runs``        native routes about graphs, runs, states and events
``inspection``  native routes for people: overview, checkup, export, runtimes, pausing, changes, limits
``releases``    native routes about releases of code and its versions
``operations``  probes, ``/metrics``, links that sign in, named keys
``backup``      copies of the database
``metrics``     what Prometheus scrapes
``openapi``     ``/openapi.json``, made from the routes and their models, and ``/docs``, a page of that
==============  ===================================================================================

Rules: an endpoint contains no SQL and decides nothing about states: that is ``engine`` and ``queries``. The
write of a claim is awaited even if the client disconnects, and the claimed states are released if the reply
cannot be written. A long poll ends when the client disconnects or the server stops. v0 keeps the shapes and
status codes of the stock server; what is new has a route below ``/exotrio/v1``, but for the one that cancels
triggers. ``manager.app`` builds the API from the classes that contain endpoints.
"""
