"""Two relations that must hold the same rows, compared by hashes first and row by row only where these differ.

Enters: two Sides. Leaves: differences with ids. Guaranteed: every row that one side lacks, has twice, or has with another content is found;
memory is bounded, because groups and rows come as two sorted streams. Rows are grouped by tenant, channel (or status) and hour; a group is
its number of rows and the sum of their hashes (32 bits of MD5, which both databases know).
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from sinks.check_look import CheckedRange, Look, literal
from sinks.check_result import Difference, Found, Key, merged

Contents = Sequence[tuple[int, str]]  # (version, content) of one key, from one side


@dataclass(frozen=True, slots=True)
class Side:
    """One relation. `sql` gives tenant, kind, hour (since 1970), id, version and content; in PostgreSQL with the parameters of
    CheckedRange.values()."""

    name: str
    store: Literal["postgres", "clickhouse"]
    sql: str


_GROUPS = {
    "postgres": """
        select tenant, kind, hour, count(*),
               sum(('x' || substr(md5(id || '|' || version || '|' || content), 1, 8))::bit(32)::bigint)
          from ({sql}) as b group by 1, 2, 3 order by tenant collate "C", kind collate "C", hour
    """,
    "clickhouse": """
        select tenant, kind, hour, count(),
               sum(reinterpretAsUInt32(reverse(substring(MD5(concat(id, '|', toString(version), '|', content)), 1, 4))))
          from ({sql}) group by tenant, kind, hour order by tenant, kind, hour
    """,
}
_ROWS = {
    "postgres": """
        select tenant, id, version, content from ({sql}) as b
         where tenant = %(t)s and kind = %(k)s and hour = %(h)s order by id collate "C", version, content collate "C"
    """,
    "clickhouse": """
        select tenant, id, version, content from ({sql})
         where tenant = {t} and kind = {k} and hour = {h} order by id, version, content
    """,
}
_SOME = {
    "postgres": """
        select tenant, id, version, content from ({sql}) as b where id = any(%(ids)s)
         order by tenant collate "C", id collate "C", version, content collate "C"
    """,
    "clickhouse": """
        select tenant, id, version, content from ({sql}) where id in ({ids}) order by tenant, id, version, content
    """,
}


@dataclass(frozen=True, slots=True)
class Unequal:
    """A key whose rows differ."""

    key: Key
    left: Contents
    right: Contents

    @property
    def versions(self) -> list[int]:
        return [version for version, _ in (*self.left, *self.right)]

    @property
    def is_moving(self) -> bool:
        """Whether each side has the row once, in another version."""
        return len(self.left) == len(self.right) == 1 and self.left[0][0] != self.right[0][0]


def equal(left: Contents, right: Contents) -> bool:
    """Whether both sides have the row once, and the same one."""
    return len(left) == 1 and left == right


@dataclass(frozen=True, slots=True)
class SameRows:
    """A check: both sides hold the same rows. With `latest`, a side has one row an id, whose version rises; otherwise one for each id and
    version. `same` says what counts as equal."""

    name: str
    compared: str  # what the rows are, after their number
    left: Side
    right: Side
    scope: CheckedRange
    latest: bool = False
    same: Callable[[Contents, Contents], bool] = equal
    is_exact: bool = False
    looks: int = 1

    def first(self, look: Look) -> Found:
        """Compares all groups, and the rows of those that differ."""
        found, rows = Found(), 0
        for group, left, right in merged(self._groups(look, self.left), self._groups(look, self.right)):
            rows += max(sum(each[0] for each in side) for side in (left, right))
            if left != right:
                for row in self._unequal(self._rows(look, self.left, group), self._rows(look, self.right, group)):
                    found.add(self._difference(row, max(row.versions)))
        found.compared = f"{rows:,} {self.compared}"
        return found

    def again(self, look: Look, before: Sequence[Difference]) -> list[Difference]:
        """Those that still differ. A delivery that has moved on since then on both sides is right, as far as anyone knows."""
        seen = {each.key: each.seen for each in before}
        ids = sorted({each.key[1] for each in before})
        unequal = self._unequal(self._some(look, self.left, ids), self._some(look, self.right, ids))
        return [
            self._difference(row, seen[row.key])
            for row in unequal
            if row.key in seen and not (self.latest and row.is_moving and min(row.versions) >= seen[row.key])
        ]

    def _unequal(self, left: Iterable[Any], right: Iterable[Any]) -> Iterator[Unequal]:
        for key, lefts, rights in merged(self._keyed(left), self._keyed(right)):
            if not self.same(lefts, rights):
                yield Unequal(tuple(map(str, key)), lefts, rights)

    def _difference(self, row: Unequal, seen: int) -> Difference:
        said = f"{self.left.name}: {_said(row.left, row.right)}; {self.right.name}: {_said(row.right, row.left)}"
        return Difference(row.key, said, seen)

    def _keyed(self, rows: Iterable[Any]) -> Iterator[tuple[tuple[Any, ...], tuple[int, str]]]:
        for tenant, id_, version, content in rows:
            yield (tenant, id_) if self.latest else (tenant, id_, version), (int(version), content)

    def _groups(self, look: Look, side: Side) -> Iterator[tuple[Any, Any]]:
        sql = _GROUPS[side.store].format(sql=side.sql)
        rows = look.postgres(sql, self.scope.values()) if side.store == "postgres" else look.clickhouse(sql)
        for tenant, kind, hour, number, hashes in rows:
            yield (tenant, kind, int(hour)), (int(number), int(hashes))

    def _rows(self, look: Look, side: Side, group: tuple[str, str, int]) -> Iterator[Any]:
        tenant, kind, hour = group
        if side.store == "postgres":
            values = self.scope.values() | {"t": tenant, "k": kind, "h": hour}
            return look.postgres(_ROWS["postgres"].format(sql=side.sql), values)
        sql = _ROWS["clickhouse"].format(sql=side.sql, t=literal(tenant), k=literal(kind), h=hour)
        return look.clickhouse(sql)

    def _some(self, look: Look, side: Side, ids: Sequence[str]) -> Iterator[Any]:
        if side.store == "postgres":
            return look.postgres(_SOME["postgres"].format(sql=side.sql), self.scope.values() | {"ids": list(ids)})
        return look.clickhouse(_SOME["clickhouse"].format(sql=side.sql, ids=", ".join(map(literal, ids))))


def _said(here: Contents, there: Contents) -> str:
    """What one side has, in a few words."""
    if len(here) != 1:
        return f"{len(here)} rows" if here else "nothing"
    version, content = here[0]
    word = content.split("|", 1)[0]
    alike = len(there) == 1 and there[0][0] == version and there[0][1].split("|", 1)[0] == word
    return f"version {version} {word}" + (f" with {content.partition('|')[2]}" if alike else "")
