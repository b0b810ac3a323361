"""The generative model of a synthetic log: the interests of users over time, and the outcomes that items get.

Every item belongs to a niche of a topic and has a style. Each style gets one outcome more often than the others, so the
items that are saved differ from those that are clicked. The interests of users move from topic to topic over time.
Events come in sessions. In a session a user browses the home feed, follows related items, or searches; the items after
a query are of the query's niche. This module knows nothing of files or of ids as text.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pinrec_core.errors import ConfigError, require
from pinrec_core.simulation.synthetic_words import ADJECTIVES, IDEA_WORDS, QUERIES, STYLES, TOPICS

ACTIONS = (*STYLES, "search")
SEARCH = len(STYLES)  # the code of the query action
SURFACES = ("homefeed", "related", "search")
HOMEFEED, RELATED, SEARCH_SURFACE = range(3)

START = 1_704_067_200  # 2024-01-01T00:00:00Z
DAYS = 180

_STYLES = tuple(STYLES.values())
_BASE_RATE = np.array([0.22, 0.40, 0.18, 0.14, 0.06])  # share of each style's action, before the style has an effect
_STYLE_SHARE = np.array([0.27, 0.30, 0.20, 0.17, 0.06])
_STYLE_PULL = 1.8  # log-odds that the style of an item adds to the action of that style
_ZIPF = 1.0
_WAYPOINTS = 5  # points in time at which the interests of a user change
_KEEP_INTEREST = 0.6  # probability that an interest stays the same at a waypoint
_SESSION_EVENTS = 8.0  # mean number of events in a session
_SEARCH_SESSIONS = 0.25  # share of sessions that are searches
_RELATED = 0.35  # probability that an event on the home feed leads to a related item


@dataclass(frozen=True, slots=True, kw_only=True)
class WorldConfig:
    """The size and the seed of a synthetic log. ``events`` counts all rows, including queries."""

    users: int
    items: int
    events: int
    seed: int = 0
    queries: bool = True

    def __post_init__(self) -> None:
        require(self.users >= 1, "users", self.users, "at least 1", error=ConfigError)
        require(self.items >= 1, "items", self.items, "at least 1", error=ConfigError)
        require(self.events >= self.users, "events", self.events, f"at least one per user ({self.users})",
                error=ConfigError)  # fmt: skip
        require(self.seed >= 0, "seed", self.seed, "0 or more", error=ConfigError)


@dataclass(frozen=True, slots=True)
class EventChunk:
    """Events of some users, sorted by user and time.

    ``item`` holds rows of the world's items, and −1 for queries. ``query`` holds rows of ``LatentWorld.query_texts``,
    and −1 for events that are no queries.
    """

    user: np.ndarray
    item: np.ndarray
    action: np.ndarray
    surface: np.ndarray
    timestamp: np.ndarray
    query: np.ndarray

    def __len__(self) -> int:
        return len(self.user)


class LatentWorld:
    """The items and rules of one seed. Items are numbered by niche, so that each niche is a range of numbers."""

    def __init__(self, config: WorldConfig) -> None:
        rng = np.random.default_rng([config.seed, 0])
        V = config.items
        self.config = config
        self.niches = [(topic, niche) for topic, niches in TOPICS.items() for niche in niches]
        # If there are fewer items than niches, only every n-th niche is used, which keeps the most topics.
        self.niches = self.niches[:: max(1, -(-len(self.niches) // V))]
        G = len(self.niches)
        self.niche = np.sort(np.arange(V) % G)
        self.style = rng.choice(len(STYLES), V, p=_STYLE_SHARE)
        popularity = (1.0 + rng.permutation(V)) ** -_ZIPF
        self._cumulative = np.concatenate([[0.0], np.cumsum(popularity)])
        self._niche_bounds = np.searchsorted(self.niche, np.arange(G + 1))
        affinity = np.log(_BASE_RATE) + rng.normal(0, 0.3, (V, len(STYLES)))
        affinity[np.arange(V), self.style] += _STYLE_PULL
        self.outcome_probability = _softmax(affinity)  # [V, actions]
        self._wording = rng.integers(1 << 16, size=(V, 4), dtype=np.uint16)
        self._topics = list(dict.fromkeys(topic for topic, _ in self.niches))
        topic_of_niche = np.array([self._topics.index(topic) for topic, _ in self.niches])
        self._topic_bounds = np.searchsorted(topic_of_niche, np.arange(len(self._topics) + 1))
        self.query_texts = [
            phrase.format(t=niche, a=ADJECTIVES[(number * 7 + turn) % len(ADJECTIVES)])
            for number, (_, niche) in enumerate(self.niches)
            for turn, phrase in enumerate(QUERIES)
        ]

    def events_per_user(self) -> np.ndarray:
        """The number of events of each user, int64 ``[users]``: at least 1, in all ``config.events``, log-normal."""
        rng = np.random.default_rng([self.config.seed, 1])
        activity = rng.lognormal(0.0, 1.0, self.config.users)
        return 1 + rng.multinomial(self.config.events - self.config.users, activity / activity.sum())

    def title(self, item: int) -> str:
        """A readable title, made from the item's niche and style."""
        phrase, adjective, idea, number = map(int, self._wording[item])
        _, phrases = _STYLES[self.style[item]]
        text = phrases[phrase % len(phrases)].format(
            t=self.niches[self.niche[item]][1],
            a=ADJECTIVES[adjective % len(ADJECTIVES)],
            ideas=IDEA_WORDS[idea % len(IDEA_WORDS)],
            n=5 + number % 55,
        )
        return text[0].upper() + text[1:]

    def topic(self, item: int) -> str:
        return self.niches[self.niche[item]][0]

    def kind(self, item: int) -> str:
        return _STYLES[self.style[item]][0]

    def generate(self, first_user: int, events: np.ndarray) -> EventChunk:
        """``events[i]`` events of user ``first_user + i``, for every i. Depends only on the seed and the arguments."""
        rng = np.random.default_rng([self.config.seed, 3, first_user])
        user = np.repeat(np.arange(len(events)), events)
        n = len(user)
        position = np.arange(n) - np.repeat(np.cumsum(events) - events, events)
        starts_session = (rng.random(n) < 1 / _SESSION_EVENTS) | (position == 0)
        session = np.cumsum(starts_session) - 1
        session_user = user[starts_session]

        searches = (rng.random(len(session_user)) < _SEARCH_SESSIONS) & self.config.queries
        session_start = self._session_starts(session_user, len(events), rng)
        session_topic = self._session_topics(session_user, session_start, len(events), rng)
        session_niche = self._niche_in(session_topic, rng)

        is_query = starts_session & searches[session]
        surface = np.where(searches[session], SEARCH_SURFACE, HOMEFEED)
        follows = (rng.random(n) < _RELATED) & ~starts_session & (surface == HOMEFEED)
        surface[follows] = RELATED
        niche = np.where(searches[session], session_niche[session], self._niche_in(session_topic[session], rng))
        niche = niche[np.maximum.accumulate(np.where(follows, 0, np.arange(n)))]  # a related item stays in the niche

        item = self._item_in(niche, rng)
        action = _draw(self.outcome_probability[item], rng)
        query = niche * len(QUERIES) + rng.integers(len(QUERIES), size=n)
        return EventChunk(
            user=first_user + user,
            item=np.where(is_query, -1, item),
            action=np.where(is_query, SEARCH, action),
            surface=surface,
            timestamp=self._timestamps(user, session, session_start, starts_session, rng),
            query=np.where(is_query, query, -1),
        )

    def _session_starts(self, session_user: np.ndarray, users: int, rng: np.random.Generator) -> np.ndarray:
        """Unix seconds of each session, ascending within a user: days in an active span, near a favourite hour."""
        first_day = rng.integers(0, DAYS // 2, users)
        span = rng.integers(DAYS // 4, DAYS // 2, users)
        hour = rng.normal(19.0, 3.0, users)
        day = first_day[session_user] + np.floor(rng.random(len(session_user)) * span[session_user])
        time_of_day = np.clip(rng.normal(hour[session_user], 2.0), 0, 23.9) * 3600
        start = START + day * 86_400 + time_of_day
        return start[np.lexsort((start, session_user))].astype(np.int64)

    def _session_topics(
        self, session_user: np.ndarray, session_start: np.ndarray, users: int, rng: np.random.Generator
    ) -> np.ndarray:
        """The topic of each session. Users have two interests at each waypoint, which change from one to the next."""
        path = rng.integers(len(self._topics), size=(users, _WAYPOINTS, 2))
        for later in range(1, _WAYPOINTS):
            stays = rng.random((users, 2)) < _KEEP_INTEREST
            path[:, later] = np.where(stays, path[:, later - 1], path[:, later])
        progress = (session_start - START) / (DAYS * 86_400)
        waypoint = (progress * (_WAYPOINTS - 1) + rng.random(len(session_user))).astype(np.int64)
        slot = (rng.random(len(session_user)) < 0.35).astype(np.int64)
        return path[session_user, np.minimum(waypoint, _WAYPOINTS - 1), slot]

    def _niche_in(self, topic: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """A random niche of each given topic. Earlier niches are more frequent."""
        low, high = self._topic_bounds[topic], self._topic_bounds[topic + 1]
        return low + ((high - low) * rng.random(len(topic)) ** 1.5).astype(np.int64)

    def _item_in(self, niche: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """A random item of each given niche, drawn by popularity."""
        first, end = self._niche_bounds[niche], self._niche_bounds[niche + 1]
        low, high = self._cumulative[first], self._cumulative[end]
        drawn = np.searchsorted(self._cumulative, low + (high - low) * rng.random(len(niche)), side="right") - 1
        return np.clip(drawn, first, end - 1)  # rounding can lead beyond a bound

    def _timestamps(
        self,
        user: np.ndarray,
        session: np.ndarray,
        session_start: np.ndarray,
        starts_session: np.ndarray,
        rng: np.random.Generator,
    ) -> np.ndarray:
        """Unix seconds, strictly ascending within a user, with seconds to minutes between the events of a session."""
        gap = np.where(starts_session, 0, rng.lognormal(3.0, 0.8, len(user)).astype(np.int64) + 1)
        elapsed = np.cumsum(gap)
        first = np.flatnonzero(starts_session)
        timestamp = session_start[session] + elapsed - elapsed[first][session]
        apart = user * (4 * DAYS * 86_400)  # keeps the running maximum of one user below the times of the next
        step = np.arange(len(user))
        return np.maximum.accumulate(timestamp + apart - step) - apart + step


def _draw(probability: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The number of a column for each row, drawn with the row's probabilities."""
    cumulative = np.cumsum(probability, axis=1)
    return (rng.random((len(probability), 1)) * cumulative[:, -1:] > cumulative).sum(axis=1)


def _softmax(logits: np.ndarray) -> np.ndarray:
    weights = np.exp(logits - logits.max(axis=1, keepdims=True))
    return weights / weights.sum(axis=1, keepdims=True)
