"""Names at the ends of a chart's lines: short enough, and not one over another."""

from collections.abc import Sequence

from genobj.studies.axes import Real

LINE = 13.0
"""Units from one name to the next one below it at least."""


def spaced(wanted: Sequence[Real], highest: Real, lowest: Real) -> list[Real]:
    """Rising places moved apart by LINE at least: names that touch share the middle of where they are wanted.

    highest, lowest: between which they all stand, in units from the top down; there has to be room for all.
    """
    groups = list[tuple[Real, int]]()  # of names that touch: the sum of where each would put the first one; how many

    def start(group: tuple[Real, int]) -> Real:
        total, many = group
        return max(min(total / many, lowest - (many - 1) * LINE), highest)

    for place in wanted:
        groups.append((place, 1))
        while len(groups) > 1 and start(groups[-1]) < start(groups[-2]) + groups[-2][1] * LINE:
            (above, over), (total, many) = groups[-2:]
            groups[-2:] = [(above + total - over * many * LINE, over + many)]
    return [start(group) + i * LINE for group in groups for i in range(group[1])]


def shortest(titles: Sequence[str], most: int) -> list[str]:
    """Titles in at most so many letters each: as they begin or, where that tells no difference, as they end."""
    dots = "\N{HORIZONTAL ELLIPSIS}"
    begun = [title if len(title) <= most else title[: most - 1].rstrip() + dots for title in titles]
    ended = [title if len(title) <= most else dots + title[1 - most :].lstrip() for title in titles]
    return [end if begun.count(start) > 1 else start for start, end in zip(begun, ended, strict=True)]
