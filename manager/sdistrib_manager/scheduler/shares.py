"""Fair shares: deficit round robin over clients, counted in expected seconds.

Each client has been served some seconds; full quanta of them are its round, and who is in an
earlier round goes first. A client that had nothing to do joins the round of the day: what it did
not use is not saved up, and what it used is not forgotten while others wait.
"""

#: Seconds of work that a client gets before others have their turn: long enough that an everyday
#: petition is not cut up, short enough that one of hundreds of images holds nobody up.
QUANTUM_S = 600.0
#: A client whose boxes were away falls no further behind than this many rounds.
_BEHIND_MAX = 8
#: Idle for so long, a client is a newcomer when it comes back.
NEWCOMER_S = 300.0
#: Beyond so many clients, what those without waiting images got is forgotten.
CLIENTS_MAX = 10_000


class _Share:
    """What one client got."""

    __slots__ = ("served_at", "served_s", "waiting")

    def __init__(self, served_s: float) -> None:
        self.served_s = served_s
        self.served_at = float("-inf")
        #: Its images that wait.
        self.waiting = 0


class Shares:
    """How many rounds each client has had."""

    def __init__(self, quantum_s: float = QUANTUM_S) -> None:
        self._quantum_s = quantum_s
        self._shares: dict[str, _Share] = {}
        #: The round of the day: the furthest that anybody has got.
        self._day = 0
        #: Changes whenever the round of somebody with waiting images may have.
        self.version = 0

    def arrive(self, client: str, now: float) -> tuple[bool, bool]:
        """A petition of the client comes: had it nothing waiting, and is it a newcomer?"""
        share = self._of(client)
        if share.waiting:
            return False, False
        share.served_s = max(share.served_s, self._day * self._quantum_s)
        return True, now - share.served_at > NEWCOMER_S

    def wait(self, client: str, images: int) -> None:
        """So many more (or fewer) of the client's images wait."""
        self._of(client).waiting += images

    def round(self, client: str) -> int:
        """The round the client is in; the smaller goes first."""
        share = self._shares.get(client)
        if share is None:
            # Forgotten, with images in somebody's hands only.
            return self._day
        return max(0, int(share.served_s // self._quantum_s), self._day - _BEHIND_MAX)

    def would_be(self, client: str) -> tuple[bool, int]:
        """Were a petition of the client to come: had it nothing waiting, and its round then."""
        share = self._shares.get(client)
        if share is None:
            return True, self._day
        if share.waiting:
            return False, self.round(client)
        return True, max(self._day, self.round(client))

    def charge(self, client: str, seconds: float, now: float) -> None:
        """A box works so long for the client."""
        share = self._of(client)
        before = self._day, self.round(client)
        share.served_at = now
        least_s = (self._day - _BEHIND_MAX) * self._quantum_s
        self._day = max(self._day, int(share.served_s // self._quantum_s))
        share.served_s = max(share.served_s, least_s) + seconds
        self.version += before != (self._day, self.round(client))

    def _of(self, client: str) -> _Share:
        """What the client got; nothing of the day when that was forgotten."""
        share = self._shares.get(client)
        if share is None:
            self._tidy()
            share = self._shares[client] = _Share(self._day * self._quantum_s)
        return share

    def _tidy(self) -> None:
        if len(self._shares) >= CLIENTS_MAX:
            for client in [c for c, share in self._shares.items() if not share.waiting]:
                del self._shares[client]
