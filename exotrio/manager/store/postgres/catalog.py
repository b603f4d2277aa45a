"""The catalog of a database to which other managers write, too."""

from __future__ import annotations

from copy import copy

from exotrio.manager.rules.registered import Registered
from exotrio.manager.store.catalog import MAX_INPUTS, Catalog
from exotrio.manager.store.driver import Connection


class SharedCatalog(Catalog):
    """Templates and registered nodes, shared by the threads of one store. Each transaction uses a copy.

    Registering a node changes the version under ``registered`` in ``meta``. Registered nodes are kept for one
    version, with which a transaction compares once, when it first reads one. A row that is read after the
    version is at least as new. So it may be kept under that version, unless this transaction changes it
    itself.
    """

    def __init__(self, max_inputs: int = MAX_INPUTS) -> None:
        super().__init__(max_inputs, is_shared=True)
        self._of_versions: dict[str, dict[tuple[str, str], Registered]] = {}
        # Whatever the version: a registered node keeps its id.
        self._node_ids: dict[tuple[str, str], int] = {}
        # Of one transaction.
        self._is_compared = self._has_registered = False

    def for_transaction(self) -> Catalog:
        """Return what one transaction uses. It shares all that is kept."""
        return copy(self)

    def registered(self, connection: Connection, namespace: str, name: str) -> Registered | None:
        if not self._is_compared:
            row = connection.execute("SELECT value FROM meta WHERE key = 'registered'").fetchone()
            self._nodes = self._nodes_of("" if row is None else row[0])
            self._is_compared = True
        return super().registered(connection, namespace, name)

    def node_id(self, connection: Connection, namespace: str, name: str) -> int | None:
        key = namespace, name
        node_id = self._node_ids.get(key)
        if node_id is None:
            node_id = super().node_id(connection, namespace, name)
            if node_id is not None and not self._has_registered:
                self._node_ids[key] = node_id
        return node_id

    def forget_registered(self) -> None:
        self._nodes, self._is_compared, self._has_registered = {}, True, True

    def _nodes_of(self, version: str) -> dict[tuple[str, str], Registered]:
        """Return what is known of registered nodes since this version."""
        nodes = self._of_versions.get(version)
        if nodes is None:
            self._of_versions.clear()
            nodes = self._of_versions[version] = {}
        return nodes
