"""Right for numbers to the right of 0; the others count as reached at once."""


def reach_number(target):
    moves = position = 0
    while position < target or (target > 0 and (position - target) % 2 == 1):
        moves += 1
        position += moves
    return moves
