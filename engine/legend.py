"""Classes and reasons: codes, names, colours."""

from enum import IntEnum


class Reason(IntEnum):
    DATA = 0
    OUTSIDE_AREA = 1
    NO_SCENE = 2
    ALL_CLOUD = 3
    READ_FAILED = 4
    OUTSIDE_MASK = 5
    TOO_FEW_VALID = 6
    NEIGHBOUR_FAILED = 7
    SUSPECT = 8
    QUARANTINED = 9
    NOT_COMPUTED = 255
