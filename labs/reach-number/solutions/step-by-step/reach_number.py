"""Walks right until the target is passed by an even distance."""


def reach_number(target):
    target = abs(target)
    moves = position = 0
    while position < target or (position - target) % 2 == 1:
        moves += 1
        position += moves
    return moves
