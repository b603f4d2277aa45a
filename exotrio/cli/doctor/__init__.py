"""The command ``doctor``. Import ``settings``, ``examine``, ``report`` and ``server.Kind`` from here.

* ``settings`` says which setting came from where, and which versions there are.
* ``examine`` asks everything that can be asked, outboxes included, and changes nothing: ``probe`` connects
  step by step, ``server`` finds out what answers, ``v0`` looks for claims where only v0 is spoken.
* ``findings`` is pure: it turns what was learned into ``Finding``s.
* ``report`` shows all of it as text or JSON.

A check never raises for what it finds: each problem is a ``Finding`` with its fix.
"""
