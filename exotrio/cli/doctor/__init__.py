"""The command ``doctor``. Import ``settings``, ``examine``, ``report`` and ``server.Kind`` from here.

* ``settings`` lists each setting with its source, and the versions.
* ``examine`` examines the state manager and outboxes, and changes nothing; ``server`` finds out what answers
  at a URI.
* ``findings`` is pure: it turns facts into ``Finding``s.
* ``report`` shows all of it as text or JSON.

A check never raises an error for a problem: each problem is a ``Finding`` with its fix.
"""
