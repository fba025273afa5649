"""Tables of how exported detectors differ from those in PyTorch."""

from models_mm.mmdet2.parity import OWN, WITHOUT, Difference, Tolerance

HEAD = (
    "| detector | equal | photos | empty | objects | boxes, px | scores | mask pixels | seconds |\n"
    "|---|---|---|---|---|---|---|---|---|\n"
)

BY_MAPS = " (maps are equal)"  # of a photo whose objects differ


def row(name: str, found: list[Difference] | Exception, seconds: float) -> str:
    """The largest differences of a detector; or the error that has ended its export."""
    if isinstance(found, Exception):
        why = " ".join(str(found).split())[:200].replace("|", "/")
        return f"| {name} | no: {type(found).__name__}: {why} | | | | | | | {seconds:.0f} |\n"
    by_maps = sum(photo.photo.endswith(BY_MAPS) for photo in found)
    equal = sum(photo.within(Tolerance()) for photo in found) + by_maps == len(found)
    objects, unmatched = (sum(getattr(x, key) for x in found) for key in ("objects", "unmatched"))
    empty = sum(not photo.objects for photo in found)
    box, score, mask = (max(getattr(x, key) for x in found) for key in ("box", "score", "mask"))
    verdict = "yes" if equal else f"no: {unmatched} objects differ" if unmatched else "no"
    if others := sum(photo.photo.endswith(WITHOUT) for photo in found):
        verdict += f", {others} without oneDNN"
    if own := sum(OWN in photo.photo for photo in found):
        verdict += f", {own} less than PyTorch itself"
    if by_maps:
        verdict += f", {by_maps} by maps ({unmatched} objects differ)"
    return (
        f"| {name} | {verdict} | {len(found)} | {empty} | {objects} "
        f"| {box:.1e} | {score:.1e} | {mask:.3%} | {seconds:.0f} |\n"
    )
