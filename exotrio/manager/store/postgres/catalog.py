"""The catalog of a database to which other managers write, too."""

from __future__ import annotations

from exotrio.manager.rules.registered import Registered
from exotrio.manager.store.catalog import MAX_INPUTS, Catalog
from exotrio.manager.store.driver import Connection
from exotrio.manager.store.heads import Heads
from exotrio.manager.store.limited_nodes import LimitedNodes
from exotrio.manager.store.virtual_times import VirtualTimes


class SharedCatalog(Catalog):
    """Templates and registered nodes, shared by the threads of one store.

    Registering a node changes the version under ``registered`` in ``meta``. Registered nodes are kept for one
    version.
    """

    def __init__(self, max_inputs: int = MAX_INPUTS) -> None:
        super().__init__(max_inputs)
        self._of_version: tuple[str, dict[tuple[str, str], Registered]] = ("", {})
        self.heads = Heads()
        self.limited_nodes = LimitedNodes(kept_for=1.0)
        self.virtual_times = VirtualTimes()
        self.node_ids: dict[tuple[str, str], int] = {}
        """Whatever the version: a registered node keeps its id."""

    def for_transaction(self) -> Catalog:
        """Return what one transaction uses."""
        return _TransactionCatalog(self)

    def nodes_of(self, version: str) -> dict[tuple[str, str], Registered]:
        """Return what is known of registered nodes since this version."""
        if self._of_version[0] != version:
            self._of_version = (version, {})
        return self._of_version[1]


class _TransactionCatalog(Catalog):
    """Compares the version once, when a registered node is first read.

    A row that is read after the version is at least as new. So it may be kept under that version, unless
    this transaction changes it itself.
    """

    def __init__(self, shared: SharedCatalog) -> None:
        super().__init__(shared.max_inputs)
        self._shared = shared
        self._templates = shared._templates
        self._runs = shared._runs
        self._runs_of_states = shared._runs_of_states
        self.heads = shared.heads
        self.limited_nodes = shared.limited_nodes
        self.virtual_times = shared.virtual_times
        self._is_compared = False
        self._has_registered = False

    def registered(self, connection: Connection, namespace: str, name: str) -> Registered | None:
        if not self._is_compared:
            row = connection.execute("SELECT value FROM meta WHERE key = 'registered'").fetchone()
            self._nodes = self._shared.nodes_of("" if row is None else row[0])
            self._is_compared = True
        return super().registered(connection, namespace, name)

    def node_id(self, connection: Connection, namespace: str, name: str) -> int | None:
        key = namespace, name
        node_id = self._shared.node_ids.get(key)
        if node_id is None:
            node_id = super().node_id(connection, namespace, name)
            if node_id is not None and not self._has_registered:
                self._shared.node_ids[key] = node_id
        return node_id

    def forget_registered(self) -> None:
        self._nodes, self._is_compared, self._has_registered = {}, True, True
