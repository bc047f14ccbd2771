"""Always walks towards the target: it jumps back and forth over it, mostly for ever."""


def reach_number(target):
    target = abs(target)
    moves = position = 0
    while position != target:
        moves += 1
        position += moves if position < target else -moves
    return moves
