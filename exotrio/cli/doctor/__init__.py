"""The parts of the command ``doctor``. Import ``examine`` and ``report`` from here.

``examine`` asks everything that can be asked, and changes nothing: ``settings`` says which setting came from
where, ``line`` and ``server`` connect step by step and find out what answers, ``v0`` looks for claims where
only v0 is spoken, ``outbox`` reads outboxes. ``native`` and ``findings`` are pure: they turn what was learned
into ``Finding``s. ``report`` shows all of it as text or JSON.
"""
