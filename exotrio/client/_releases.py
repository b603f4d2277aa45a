"""The calls of the public client about releases."""

from __future__ import annotations

from exotrio._wire.releases import NewRelease, ReleaseCheck, VersionInfo, VersionList
from exotrio.client._keys import KeyCalls


class ReleaseCalls(KeyCalls):
    """What ``StateManager`` has for releases of nodes and graphs."""

    async def check_release(self, release: NewRelease) -> ReleaseCheck:
        """Return which runs in flight would break if the nodes of a release took over. Needs our server.

        Nothing is changed. ``python -m exotrio graph check FILE --against-runs`` calls this for the Runtimes
        of a file.
        """
        return await self._calls.fetch_native(ReleaseCheck, "POST", ("release", "check"), body=release)

    async def versions(self) -> list[VersionInfo]:
        """Return the versions of code that a live runtime has or something needs. Needs our server.

        Returns:
            The version with the oldest pinned run first. Runtimes of one that is not ``needed`` may be
            stopped.
        """
        return (await self._calls.fetch_native(VersionList, "GET", ("versions",))).versions
