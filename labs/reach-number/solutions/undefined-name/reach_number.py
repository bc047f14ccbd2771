"""Uses a name that was never defined."""


def reach_number(target):
    distance = abs(targt)
    moves = 0
    while distance > 0:
        moves += 1
        distance -= moves
    return moves
