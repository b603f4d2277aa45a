"""Who may do what: the permission that a route or an action needs, the scopes of a key, and the caller.

A scope is a permission for one namespace (``runtime:shop``) or for all (``runtime:*``), or ``admin``. No
scope implies another one. The configured key of a state manager, the root key, may do everything, and so may
callers inside its process.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from shlex import quote

from exotrio.graph import check_name
from exotrio.manager.rules.errors import Forbidden, InvalidRequest

ROOT = "root"
"""What the configured key is called where others have a name."""
ALL = "*"
"""In a scope: all namespaces."""
ADD_KEY = "python -m exotrio keys add NAME --scope"


class Permission(StrEnum):
    """What a route of the API or an action of the dashboard needs."""

    OPEN = "open"
    """Nothing, not even a key."""
    ANY_KEY = "any key"
    RUNTIME = "runtime"
    TRIGGER = "trigger"
    READ = "read"
    GRAPHS = "graphs"
    ADMIN = "admin"


IN_NAMESPACE = (Permission.RUNTIME, Permission.TRIGGER, Permission.READ, Permission.GRAPHS)
"""Those that a key has for one namespace, or for all."""


def check_scope(scope: str) -> str:
    """Return a scope as it is stored; raise InvalidRequest if it is not one."""
    permission, _, namespace = scope.strip().partition(":")
    if permission == Permission.ADMIN and not namespace:
        return permission
    if permission in IN_NAMESPACE and namespace:
        try:
            return f"{permission}:{namespace if namespace == ALL else check_name(namespace)}"
        except ValueError as error:
            raise InvalidRequest(f"the namespace of the scope {scope!r} {error}") from None
    known = ", ".join(f"{each}:NAMESPACE" for each in IN_NAMESPACE)
    raise InvalidRequest(f"there is no scope {scope!r}: use {known} (NAMESPACE may be {ALL}), or admin")


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedKey:
    """A key that is not the root key. What it has claimed belongs to all keys of its name."""

    id: str
    name: str
    digest: str = field(repr=False)
    scopes: frozenset[str]
    expires_at: int | None
    revoked_at: int | None

    def may(self, permission: Permission, namespace: str = "") -> bool:
        """Return whether this key has a permission, for a namespace if it is for one."""
        if permission in IN_NAMESPACE:
            return f"{permission}:{namespace}" in self.scopes or f"{permission}:{ALL}" in self.scopes
        return permission is not Permission.ADMIN or permission in self.scopes

    def require(self, permission: Permission, namespace: str = "") -> None:
        """Raise Forbidden, which names the missing scope, unless this key has a permission."""
        if f"{permission}:{namespace}" not in self.scopes and not self.may(permission, namespace):
            raise Forbidden(self.refusal(permission, namespace))

    def refusal(self, permission: Permission, namespace: str = "") -> str:
        """Return that this key lacks a permission, and how an admin makes one that has it."""
        scope = f"{permission}:{namespace}" if permission in IN_NAMESPACE else permission
        # Quoted for a shell: a namespace may have any characters that a path can have.
        command = f"{ADD_KEY} {quote(scope)}"
        return f"the key {self.name!r} lacks the scope {scope}; an admin makes a key with it: {command}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """Who sent a request.

    Attributes:
        key: None for the root key, and inside the process.
        via: "api", "dashboard", "event link", or "in process".
        address: Where it came from, as far as is known.
        request_id: As in the header of the response; empty inside the process.
    """

    key: NamedKey | None = None
    via: str = "in process"
    address: str = ""
    request_id: str = ""

    @property
    def name(self) -> str:
        return ROOT if self.key is None else self.key.name

    @property
    def who(self) -> str:
        """How the record of changes names the caller."""
        return {"api": self.name, "dashboard": f"dashboard of {self.name}"}.get(self.via, self.via)

    def may(self, permission: Permission, namespace: str = "") -> bool:
        """Return whether the caller has a permission, for a namespace if it is for one."""
        return self.key is None or self.key.may(permission, namespace)

    @property
    def sees_database(self) -> bool:
        """Whether the caller may see the condition of the whole database, of which a namespace is a part."""
        return self.may(Permission.READ, ALL) or self.may(Permission.ADMIN)

    def require(self, permission: Permission, namespace: str = "") -> None:
        """Raise Forbidden unless the caller has a permission."""
        if self.key is not None:
            self.key.require(permission, namespace)


IN_PROCESS = Caller()
"""Clients inside the process of the state manager, and commands that open its database."""
